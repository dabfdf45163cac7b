// The graph, drawn with a pen: the same for the screen, for PNG and for SVG.

import { ERROR, FEATURE, TARGET, TOKEN, labelOf, visible, type Graph } from "../graph/graph.ts";
import type { Pen } from "../files/pen.ts";
import { bendOf } from "../view/hit.ts";
import type { Layout } from "../view/layout.ts";
import type { Link } from "../view/shown.ts";
import { short } from "../view/subgraph.ts";
import type { Palette } from "./palette.ts";

export interface View {
  k: number;
  x: number;
  y: number;
}

export interface Scene {
  graph: Graph;
  layout: Layout;
  rows: readonly number[];
  links: readonly Link[];
  labels: ReadonlyMap<string, string>;
  influence: Float64Array;
  view: View;
  width: number;
  height: number;
  colours: Palette;
  selected: number | null;
  hovered: number | null;
  pins: ReadonlySet<number>;
  marked: ReadonlySet<number>;
  found: ReadonlySet<number>;
  grouped: ReadonlyMap<number, string>;
  /** The links of what is selected, hovered or on a path, drawn over the others. */
  bright: readonly Link[];
}

export const AXIS = 56;
export const FOOT = 34;

export function at(scene: Scene, row: number): [number, number] {
  const { layout, view } = scene;
  return [layout.x[row] * view.k + view.x, layout.y[row] * view.k + view.y];
}

export function drawBack(pen: Pen, scene: Scene): void {
  drawLinks(pen, scene, scene.links, 0.55);
}

/** All of it at once, for a file. */
export function drawWhole(pen: Pen, scene: Scene): void {
  drawBands(pen, scene);
  drawBack(pen, scene);
  drawFront(pen, scene);
}

export function drawFront(pen: Pen, scene: Scene): void {
  drawLinks(pen, scene, scene.bright, 0.95);
  drawNodes(pen, scene);
  drawAxes(pen, scene);
  drawLabels(pen, scene);
}

/** Where the whole stands in small, while a part of it is all that is seen; null while it is seen whole. */
export function mapOf({ layout, view, width, height }: Scene): { x: number; y: number; k: number; width: number; height: number } | null {
  const whole = view.x >= 0 && view.y >= -4 && view.x + layout.width * view.k <= width + 4 && view.y + layout.height * view.k <= height + 4;
  if (whole || width < 300 || height < 160) return null;
  const k = Math.min((width * 0.22) / layout.width, (height * 0.22) / layout.height);
  const [wide, high] = [layout.width * k, layout.height * k];
  return { x: width - wide - 10, y: 10, k, width: wide, height: high };
}

export function drawMap(pen: Pen, scene: Scene): void {
  const map = mapOf(scene);
  if (!map) return;
  const { layout, view, colours } = scene;
  pen.globalAlpha = 0.94;
  pen.fillStyle = colours.paper;
  pen.fillRect(map.x, map.y, map.width, map.height);
  pen.globalAlpha = 1;
  pen.fillStyle = colours.soft;
  for (const row of scene.rows) {
    if (!Number.isNaN(layout.x[row])) pen.fillRect(map.x + layout.x[row] * map.k - 1, map.y + layout.y[row] * map.k - 1, 2, 2);
  }
  const [x0, y0] = [Math.max(0, (AXIS - view.x) / view.k), Math.max(0, -view.y / view.k)];
  const [x1, y1] = [Math.min(layout.width, (scene.width - view.x) / view.k), Math.min(layout.height, (scene.height - FOOT - view.y) / view.k)];
  pen.setLineDash([]);
  pen.lineWidth = 1;
  pen.strokeStyle = colours.line;
  frame(pen, map.x, map.y, map.width, map.height);
  pen.lineWidth = 1.6;
  pen.strokeStyle = colours.accent;
  frame(pen, map.x + x0 * map.k, map.y + y0 * map.k, Math.max(2, (x1 - x0) * map.k), Math.max(2, (y1 - y0) * map.k));
}

function frame(pen: Pen, x: number, y: number, width: number, height: number): void {
  pen.beginPath();
  pen.moveTo(x, y);
  pen.lineTo(x + width, y);
  pen.lineTo(x + width, y + height);
  pen.lineTo(x, y + height);
  pen.lineTo(x, y);
  pen.stroke();
}

export function drawBands(pen: Pen, { layout, view, width, height, colours }: Scene): void {
  pen.globalAlpha = 1;
  pen.fillStyle = colours.paper;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = colours.band;
  for (const line of layout.lines) {
    if (line.level % 2) pen.fillRect(0, line.y * view.k + view.y, width, line.height * view.k);
  }
  pen.strokeStyle = colours.line;
  pen.lineWidth = 1;
  pen.setLineDash([]);
  pen.beginPath();
  for (const column of layout.columns.slice(1)) {
    const x = Math.round(column.x * view.k + view.x) + 0.5;
    pen.moveTo(x, 0);
    pen.lineTo(x, height);
  }
  pen.stroke();
  // Tokens between these columns are left out.
  pen.strokeStyle = colours.soft;
  pen.globalAlpha = 0.5;
  pen.setLineDash([2, 4]);
  pen.beginPath();
  layout.columns.slice(1).forEach((column, before) => {
    if (layout.columns[before].pos < 0 || column.pos <= layout.columns[before].pos + 1) return;
    const x = Math.round(column.x * view.k + view.x) + 0.5;
    pen.moveTo(x, 0);
    pen.lineTo(x, height);
  });
  pen.stroke();
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

/** Beyond so many links nobody tells dashes apart, and a browser takes long to draw them: colour alone, which is safe, says the sign. */
const MOST_DASHED = 800;

/** How strong a share of a node's inputs is drawn, in ten steps. */
function strengthOf(share: number): number {
  return 1 + Math.min(9, Math.floor(Math.sqrt(share) * 12));
}

function widthOf(strength: number): number {
  return 0.6 + strength * 0.42;
}

/** How wide the line of a link is. */
export function linkWidth(share: number): number {
  return widthOf(strengthOf(share));
}

/** One path for each sign and width, because a browser strokes few long paths faster than many short ones. */
function drawLinks(pen: Pen, scene: Scene, links: readonly Link[], alpha: number): void {
  const bins = new Map<number, Link[]>();
  for (const link of links) {
    if (Number.isNaN(scene.layout.x[link.source]) || Number.isNaN(scene.layout.x[link.target])) continue;
    const bin = (link.weight < 0 ? -1 : 1) * strengthOf(link.share);
    const same = bins.get(bin);
    if (same) same.push(link);
    else bins.set(bin, [link]);
  }
  for (const bin of [...bins.keys()].sort((a, b) => Math.abs(a) - Math.abs(b))) {
    const strength = Math.abs(bin);
    pen.strokeStyle = bin < 0 ? scene.colours.negative : scene.colours.positive;
    pen.lineWidth = widthOf(strength);
    pen.globalAlpha = Math.min(1, alpha * (0.3 + strength * 0.14));
    pen.setLineDash(bin < 0 && links.length <= MOST_DASHED ? [4, 3] : []);
    pen.beginPath();
    for (const link of bins.get(bin)!) {
      const [x0, y0] = at(scene, link.source);
      const [x1, y1] = at(scene, link.target);
      const bend = bendOf(y0, y1);
      pen.moveTo(x0, y0);
      pen.bezierCurveTo(x0, y0 - bend, x1, y1 + bend, x1, y1);
    }
    pen.stroke();
  }
  pen.setLineDash([]);
  pen.globalAlpha = 1;
}

function radius(scene: Scene, row: number): number {
  const kind = scene.graph.nodes.kind[row];
  const zoom = Math.max(0.45, Math.min(1.5, Math.sqrt(scene.view.k)));
  if (kind === FEATURE) return zoom * (4 + 5 * Math.sqrt(Math.min(1, scene.influence[row] * 6)));
  return zoom * (kind === TOKEN || kind === TARGET ? 6.5 : 4);
}

function drawNodes(pen: Pen, scene: Scene): void {
  const { graph, colours } = scene;
  pen.globalAlpha = 1;
  for (const row of scene.rows) {
    const [x, y] = at(scene, row);
    if (x < -20 || y < -20 || x > scene.width + 20 || y > scene.height + 20) continue;
    const r = radius(scene, row);
    const kind = graph.nodes.kind[row];
    ring(pen, scene, row, x, y, r);
    pen.lineWidth = 1.4;
    pen.strokeStyle = kind === FEATURE || kind === TOKEN || kind === TARGET ? colours.ink : colours.soft;
    pen.fillStyle = kind === FEATURE ? colours.feature : kind === TOKEN || kind === TARGET ? colours.ink : colours.paper;
    outline(pen, kind, x, y, r);
    pen.fill();
    pen.stroke();
  }
}

function outline(pen: Pen, kind: number, x: number, y: number, r: number): void {
  pen.beginPath();
  if (kind === FEATURE) pen.arc(x, y, r, 0, 2 * Math.PI);
  else if (kind === TOKEN || kind === TARGET) pen.rect(x - r * 0.85, y - r * 0.85, r * 1.7, r * 1.7);
  else if (kind === ERROR) {
    pen.moveTo(x, y - r * 1.2);
    pen.lineTo(x + r * 1.2, y);
    pen.lineTo(x, y + r * 1.2);
    pen.lineTo(x - r * 1.2, y);
    pen.closePath();
  } else {
    pen.moveTo(x, y - r);
    pen.lineTo(x + r, y + r * 0.8);
    pen.lineTo(x - r, y + r * 0.8);
    pen.closePath();
  }
}

function ring(pen: Pen, scene: Scene, row: number, x: number, y: number, r: number): void {
  const { colours } = scene;
  const circle = (extra: number, width: number, colour: string, dash: number[] = []) => {
    pen.beginPath();
    pen.arc(x, y, r + extra, 0, 2 * Math.PI);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.stroke();
    pen.setLineDash([]);
  };
  if (scene.found.has(row)) {
    pen.beginPath();
    pen.arc(x, y, r + 6, 0, 2 * Math.PI);
    pen.fillStyle = colours.halo;
    pen.fill();
  }
  if (scene.pins.has(row)) circle(3.5, 1.6, colours.accent);
  if (scene.marked.has(row)) circle(6, 1.6, colours.accent, [2, 2]);
  if (row === scene.selected) circle(4.5, 3, colours.accent);
  else if (row === scene.hovered) circle(4.5, 2, colours.soft);
}

function drawAxes(pen: Pen, scene: Scene): void {
  const { graph, layout, view, width, height, colours } = scene;
  pen.fillStyle = colours.paper;
  pen.globalAlpha = 0.92;
  pen.fillRect(0, 0, AXIS - 8, height);
  pen.fillRect(0, height - FOOT, width, FOOT);
  pen.globalAlpha = 1;
  pen.fillStyle = colours.soft;
  pen.font = `11px ${colours.font}`;
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  let last = Infinity;
  for (const line of layout.lines) {
    const y = (line.y + line.height / 2) * view.k + view.y;
    if (y < 8 || y > height - FOOT || last - y < 14) continue;
    last = y;
    pen.fillText(line.level === 0 ? "tokens" : line.level === graph.nLayers + 1 ? "output" : `L${line.level - 1}`, 8, y);
  }
  pen.textAlign = "center";
  pen.font = `12px ${colours.font}`;
  pen.fillStyle = colours.ink;
  for (const column of layout.columns) {
    const x = (column.x + column.width / 2) * view.k + view.x;
    if (x < AXIS - 20 || x > width) continue;
    const room = Math.max(1, Math.floor((column.width * view.k) / 7.2));
    const text = column.pos < 0 ? "any" : visible(graph.tokens[column.pos]);
    if (room >= 2) pen.fillText(short(text.trim(), room), x, height - FOOT / 2);
  }
}

const MOST_LABELS = 70;

/** Labels of what matters most, where there is room for them: none lies over another or over a node. */
function drawLabels(pen: Pen, scene: Scene): void {
  const { graph, colours } = scene;
  const taken: [number, number, number, number][] = [];
  const strong = (row: number) => row === scene.selected || row === scene.hovered;
  const rows = scene.rows.filter((row) => {
    const kind = graph.nodes.kind[row];
    const [x, y] = at(scene, row);
    return (kind === FEATURE || kind === TARGET || strong(row)) && x > AXIS - 20 && x < scene.width && y > 0 && y < scene.height - FOOT + 8;
  });
  const rank = (row: number) => (strong(row) ? 4 : 0) + (graph.nodes.kind[row] === TARGET ? 3 : 0) + (scene.pins.has(row) ? 2 : 0) + (scene.found.has(row) ? 1 : 0) + Math.min(scene.influence[row], 0.999);
  if (rows.length < 1500) {
    for (const row of rows) {
      const [x, y] = at(scene, row);
      const r = radius(scene, row) + 1;
      taken.push([x - r, y - r, x + r, y + r]);
    }
  }
  pen.textAlign = "left";
  pen.textBaseline = "middle";
  let drawn = 0;
  for (const row of rows.sort((a, b) => rank(b) - rank(a)).slice(0, 4 * MOST_LABELS)) {
    if (drawn >= MOST_LABELS) break;
    const group = scene.grouped.get(row);
    const said = group ?? labelOf(graph, scene.labels, row);
    // What has no label goes by its layer and index: its position is where it stands.
    const text = short(said.trim() ? visible(said).trim() : graph.names[row].split("@")[0], strong(row) ? 60 : 20);
    pen.font = `${group || graph.nodes.kind[row] === TARGET ? "600 " : ""}11px ${colours.font}`;
    const width = pen.measureText(text).width;
    const [x, y] = at(scene, row);
    const r = radius(scene, row) + 5;
    const spots: [number, number][] = [[x - width / 2, y - r - 7], [x - width / 2, y + r + 7], [x + r, y], [x - r - width, y]];
    const spot = spots.map(([left, middle]) => [Math.max(AXIS, Math.min(left, scene.width - width - 4)), middle] as const).find(([left, middle]) => {
      const box = [left - 2, middle - 7, left + width + 2, middle + 7] as const;
      return box[1] > 0 && box[3] < scene.height - FOOT && taken.every((other) => other[2] <= box[0] || other[0] >= box[2] || other[3] <= box[1] || other[1] >= box[3]);
    }) ?? (strong(row) ? [Math.max(AXIS, Math.min(x - width / 2, scene.width - width - 4)), Math.max(10, y - r - 7)] as const : undefined);
    if (!spot) continue;
    const [left, middle] = spot;
    taken.push([left - 2, middle - 7, left + width + 2, middle + 7]);
    drawn++;
    pen.globalAlpha = strong(row) ? 0.95 : 0.75;
    pen.fillStyle = colours.paper;
    pen.fillRect(left - 2, middle - 7, width + 4, 14);
    pen.globalAlpha = 1;
    pen.fillStyle = group ? colours.accent : colours.ink;
    pen.fillText(text, left, middle);
  }
}
