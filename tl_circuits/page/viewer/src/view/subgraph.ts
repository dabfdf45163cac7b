// The pinned part of the graph as boxes: one for each supernode, one for each node outside of them.

import { TARGET, TOKEN, labelOf, visible, type Graph } from "../graph/graph.ts";
import { share, type Shares } from "../graph/influence.ts";
import type { Work } from "../state/work.ts";
import { levelOf } from "./layout.ts";

export interface Box {
  key: string;
  label: string;
  /** What stands in it: its label, and its node's name where another box would say the same. */
  text: string;
  rows: number[];
  isSupernode: boolean;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Tie {
  source: Box;
  target: Box;
  /** Signed: the influence-weighted mean part of the target's inputs that comes from the source. */
  part: number;
}

export interface Subgraph {
  boxes: Box[];
  ties: Tie[];
  width: number;
  height: number;
}

const HEIGHT = 34;
const GAP = 18;
const LEVEL = 84;
const LEAST_TOKEN_PART = 0.02;

/** The boxes and what runs between them, edges that pruning hid included. Outputs, and tokens that matter to a pin, come along. */
export function subgraph(graph: Graph, work: Work, labels: ReadonlyMap<string, string>, shares: Shares, flow: Float64Array, measure: (text: string) => number): Subgraph {
  const boxes = boxesOf(graph, work, labels);
  if (!boxes.length) return { boxes: [], ties: [], width: 0, height: 0 };
  const pinned = new Set(boxes.flatMap((box) => box.rows));
  for (let row = 0; row < graph.nodes.count; row++) {
    const kind = graph.nodes.kind[row];
    if (pinned.has(row) || !(kind === TARGET || kind === TOKEN)) continue;
    boxes.push(box(graph.names[row], visible(labelOf(graph, labels, row)), [row], false));
  }
  let ties = tiesOf(boxes, shares, flow);
  const matters = new Set(ties.filter((tie) => Math.abs(tie.part) >= LEAST_TOKEN_PART && tie.target.rows.some((row) => pinned.has(row))).map((tie) => tie.source.key));
  const shown = new Set(boxes.filter((one) => one.rows.some((row) => pinned.has(row) || graph.nodes.kind[row] === TARGET) || matters.has(one.key)));
  ties = ties.filter((tie) => shown.has(tie.source) && shown.has(tie.target));
  nameApart(graph, [...shown]);
  return { ...arrange(graph, [...shown], measure), boxes: [...shown], ties };
}

function boxesOf(graph: Graph, work: Work, labels: ReadonlyMap<string, string>): Box[] {
  const rowsOf = (names: readonly string[]) => names.map((name) => graph.rowOf.get(name)).filter((row) => row !== undefined);
  const grouped = new Set(work.supernodes.flatMap((one) => one.members));
  const groups = work.supernodes.map((one) => box(`supernode ${one.label}`, one.label, rowsOf(one.members), true)).filter((one) => one.rows.length);
  const alone = rowsOf(work.pins.filter((name) => !grouped.has(name)));
  return [...groups, ...alone.map((row) => box(graph.names[row], visible(labelOf(graph, labels, row) || graph.names[row]), [row], false))];
}

function box(key: string, label: string, rows: number[], isSupernode: boolean): Box {
  return { key, label, text: short(visible(label).trim()), rows, isSupernode, x: 0, y: 0, width: 0, height: HEIGHT };
}

/** Boxes of one text are told apart by the names of their nodes; a supernode's name is its own. */
function nameApart(graph: Graph, boxes: readonly Box[]): void {
  const often = new Map<string, number>();
  for (const one of boxes) often.set(one.text, (often.get(one.text) ?? 0) + 1);
  for (const one of boxes) {
    if (one.isSupernode || often.get(one.text)! < 2) continue;
    const name = graph.names[one.rows[0]];
    if (one.text !== name) one.text = `${short(one.text, 12)} ${name}`;
  }
}

/** Where a tie's line begins and ends, and the two points that bend it: x and y of each. */
export function curveOf({ source, target }: Tie): [number, number, number, number, number, number, number, number] {
  const [x0, y0] = [source.x + source.width / 2, source.y];
  const x1 = target.x + target.width / 2;
  const level = Math.abs(source.y - target.y) < 1;
  const y1 = level ? target.y : target.y + target.height;
  const bend = level ? 40 : Math.max(20, (y0 - y1) * 0.5);
  return [x0, y0, x0, y0 - bend, x1, y1 + (level ? -bend : bend), x1, y1];
}

/** Ties of less than this part of the inputs stand without it until somebody looks at them. */
const LEAST_AMOUNT = 0.05;
const AMOUNT = { width: 40, height: 18 };

/** Where the parts of strong ties are written: on the line, strongest first, over no box and no other part. */
export function amounts(boxes: readonly Box[], ties: readonly Tie[]): Map<Tie, { x: number; y: number }> {
  const taken = boxes.map((one) => ({ x: one.x + one.width / 2, y: one.y + one.height / 2, width: one.width, height: one.height }));
  const found = new Map<Tie, { x: number; y: number }>();
  const strong = ties.filter((tie) => Math.abs(tie.part) >= LEAST_AMOUNT).sort((a, b) => Math.abs(b.part) - Math.abs(a.part));
  for (const tie of strong) {
    const curve = curveOf(tie);
    const spot = [0.5, 0.65, 0.35, 0.78, 0.22].map((t) => along(curve, t)).find(({ x, y }) =>
      taken.every((other) => Math.abs(other.x - x) >= (other.width + AMOUNT.width) / 2 || Math.abs(other.y - y) >= (other.height + AMOUNT.height) / 2));
    if (!spot) continue;
    taken.push({ ...spot, ...AMOUNT });
    found.set(tie, spot);
  }
  return found;
}

function along([x0, y0, x1, y1, x2, y2, x3, y3]: ReturnType<typeof curveOf>, t: number): { x: number; y: number } {
  const [a, b, c, d] = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3];
  return { x: a * x0 + b * x1 + c * x2 + d * x3, y: a * y0 + b * y1 + c * y2 + d * y3 };
}

function tiesOf(boxes: Box[], shares: Shares, flow: Float64Array): Tie[] {
  const boxOf = new Map<number, Box>();
  for (const one of boxes) for (const row of one.rows) boxOf.set(row, one);
  const found = new Map<string, Tie>();
  for (const target of boxes) {
    const whole = target.rows.reduce((sum, row) => sum + flow[row], 0);
    for (const row of target.rows) {
      const part = whole > 0 ? flow[row] / whole : 1 / target.rows.length;
      for (let edge = shares.edges.bounds[row]; edge < shares.edges.bounds[row + 1]; edge++) {
        const source = boxOf.get(shares.edges.source[edge]);
        if (!source || source === target) continue;
        const key = `${source.key}\n${target.key}`;
        const tie = found.get(key) ?? { source, target, part: 0 };
        tie.part += part * share(shares, row, edge) * Math.sign(shares.edges.weight[edge]);
        found.set(key, tie);
      }
    }
  }
  return [...found.values()].filter((tie) => Math.abs(tie.part) >= 0.002).sort((a, b) => Math.abs(a.part) - Math.abs(b.part));
}

/** Up by layer, across by token; boxes of one level stand side by side. */
function arrange(graph: Graph, boxes: Box[], measure: (text: string) => number): { width: number; height: number } {
  const levels = [...new Set(boxes.map((one) => level(graph, one)))].sort((a, b) => a - b);
  const rows = levels.map((height) => boxes.filter((one) => level(graph, one) === height).sort((a, b) => middle(graph, a) - middle(graph, b)));
  for (const one of boxes) one.width = Math.min(220, Math.max(44, measure(one.text) + 24));
  const spans = rows.map((row) => row.reduce((sum, one) => sum + one.width + GAP, -GAP));
  const width = Math.max(...spans) + 2 * GAP;
  rows.forEach((row, at) => {
    let x = (width - spans[at]) / 2;
    for (const one of row) {
      one.x = x;
      one.y = (rows.length - 1 - at) * LEVEL + GAP;
      x += one.width + GAP;
    }
  });
  return { width, height: (rows.length - 1) * LEVEL + HEIGHT + 2 * GAP };
}

export function short(text: string, most = 24): string {
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

function level(graph: Graph, one: Box): number {
  const levels = one.rows.map((row) => levelOf(graph, row)).sort((a, b) => a - b);
  return levels[levels.length >> 1];
}

function middle(graph: Graph, one: Box): number {
  return one.rows.reduce((sum, row) => sum + graph.nodes.pos[row] + row / 1e9, 0) / one.rows.length;
}
