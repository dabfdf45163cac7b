// Token by layer: each node has a place of its own in the cell of its position and layer.

import { ERROR, TARGET, TOKEN, type Graph } from "../graph/graph.ts";

export interface Layout {
  width: number;
  height: number;
  /** By row; NaN where the node is not shown. */
  x: Float64Array;
  y: Float64Array;
  columns: { pos: number; x: number; width: number }[];
  lines: { level: number; y: number; height: number }[];
}

const STEP = 22;
const NARROWEST = 46;
const LOWEST = 44;

/** Level 0 is the tokens', 1 the first layer's, and the last the outputs'. */
export function levelOf(graph: Graph, row: number): number {
  const kind = graph.nodes.kind[row];
  if (kind === TOKEN) return 0;
  if (kind === TARGET) return graph.nLayers + 1;
  return Math.max(0, Math.min(graph.nLayers, graph.nodes.layer[row]) + (graph.nodes.layer[row] >= 0 ? 1 : 0));
}

/** Columns grow with what they hold, then all to fill the width and height that there is. */
export function layOut(graph: Graph, rows: readonly number[], influence: Float64Array, wide: number, high: number): Layout {
  const cells = new Map<string, number[]>();
  for (const row of rows) {
    const key = `${graph.nodes.pos[row]} ${levelOf(graph, row)}`;
    const cell = cells.get(key);
    if (cell) cell.push(row);
    else cells.set(key, [row]);
  }
  const positions = [...new Set(rows.map((row) => graph.nodes.pos[row]))].sort((a, b) => a - b);
  const levels = Array.from({ length: graph.nLayers + 2 }, (_, level) => level);
  const narrowest = Math.max(22, Math.min(NARROWEST, wide / positions.length));
  const across = (count: number) => Math.max(1, Math.ceil(Math.sqrt(count * 1.5)));
  const widths = positions.map((pos) => Math.max(narrowest, ...levels.map((level) => across(cells.get(`${pos} ${level}`)?.length ?? 0) * STEP + 14)));
  const heights = levels.map((level) => {
    const most = Math.max(0, ...positions.map((pos) => cells.get(`${pos} ${level}`)?.length ?? 0));
    return Math.max(LOWEST, Math.ceil(most / across(most)) * STEP + 18);
  });
  grow(widths, wide, narrowest - 16);
  // What is too wide is shown smaller, so that there is room for more height.
  grow(heights, high * Math.max(1, widths.reduce((sum, value) => sum + value, 0) / wide), 0);
  const x = new Float64Array(graph.nodes.count).fill(NaN);
  const y = new Float64Array(graph.nodes.count).fill(NaN);
  const columns = stack(widths).map((start, at) => ({ pos: positions[at], x: start, width: widths[at] }));
  const height = heights.reduce((sum, value) => sum + value, 0);
  const lines = stack(heights).map((start, level) => ({ level, y: height - start - heights[level], height: heights[level] }));
  for (const column of columns) {
    for (const line of lines) {
      const cell = cells.get(`${column.pos} ${line.level}`);
      if (cell) place(graph, cell, influence, across(cell.length), column, line, x, y);
    }
  }
  return { width: widths.reduce((sum, value) => sum + value, 0), height, x, y, columns, lines };
}

function place(graph: Graph, cell: number[], influence: Float64Array, across: number, column: Layout["columns"][0], line: Layout["lines"][0], x: Float64Array, y: Float64Array): void {
  const order = [...cell].sort((a, b) => Number(graph.nodes.kind[a] === ERROR) - Number(graph.nodes.kind[b] === ERROR) || influence[b] - influence[a] || a - b);
  const down = Math.ceil(order.length / across);
  order.forEach((row, at) => {
    const [i, j] = [at % across, Math.floor(at / across)];
    const inRow = j === down - 1 ? order.length - across * (down - 1) : across;
    const spread = Math.min((column.width - 18) / across, STEP * 4.5);
    x[row] = column.x + column.width / 2 + (i - (inRow - 1) / 2) * spread;
    y[row] = line.y + line.height / 2 + (j - (down - 1) / 2) * Math.min((line.height - 14) / down, STEP * 1.5);
  });
}

/** What is left over goes to each in proportion to what it needs beyond so much. */
function grow(sizes: number[], to: number, beyond: number): void {
  const extra = to - sizes.reduce((sum, value) => sum + value, 0);
  const needs = sizes.map((size) => size - beyond);
  const whole = needs.reduce((sum, value) => sum + value, 0);
  if (extra > 0) sizes.forEach((size, at) => (sizes[at] = size + (extra * needs[at]) / whole));
}

function stack(sizes: readonly number[]): number[] {
  let sum = 0;
  return sizes.map((size) => (sum += size) - size);
}
