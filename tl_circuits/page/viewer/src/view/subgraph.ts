// The pinned part of the graph as boxes: one for each supernode, one for each node outside of them.

import { TARGET, TOKEN, labelOf, visible, type Graph } from "../graph/graph.ts";
import { share, type Shares } from "../graph/influence.ts";
import type { Work } from "../state/work.ts";
import { levelOf } from "./layout.ts";

export interface Box {
  key: string;
  label: string;
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
  return { key, label, rows, isSupernode, x: 0, y: 0, width: 0, height: HEIGHT };
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
  for (const one of boxes) one.width = Math.min(190, Math.max(44, measure(short(one.label)) + 24));
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
