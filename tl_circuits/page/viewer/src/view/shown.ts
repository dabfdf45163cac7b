// Which nodes and edges are on display: what pruning kept, less what the filters hide.

import { ERROR, FEATURE, TARGET, TOKEN, type Graph } from "../graph/graph.ts";
import { isConstant, type Cut } from "../graph/prune.ts";
import type { Work } from "../state/work.ts";

/** Rows in the graph's order. Pins are shown whatever the sliders say; constants and errors only where something of them is. */
export function shownRows(graph: Graph, work: Work, cut: Cut, density: (row: number) => number | null | undefined): number[] {
  const pinned = new Set(work.pins);
  const kinds = new Set(work.kinds);
  const positions = new Set(work.positions);
  const used = touched(graph, cut);
  const rows: number[] = [];
  for (let row = 0; row < graph.nodes.count; row++) {
    const kind = graph.nodes.kind[row];
    if (pinned.has(graph.names[row])) {
      rows.push(row);
      continue;
    }
    if (!cut.nodes[row] || !kinds.has(kind)) continue;
    if ((kind === ERROR || isConstant(kind)) && !used[row]) continue;
    if (positions.size && kind !== TARGET && !positions.has(graph.nodes.pos[row])) continue;
    if (work.layers && kind !== TARGET && kind !== TOKEN && !(work.layers[0] <= graph.nodes.layer[row] && graph.nodes.layer[row] <= work.layers[1])) continue;
    if (work.density !== null && (density(row) ?? 0) > work.density) continue;
    rows.push(row);
  }
  return rows;
}

/** A prompt of more tokens is long: of it so many are shown at once, unless a person asks for all. */
const LONG = 64;
const MOST_TOKENS = 24;

/** Of a long prompt, the positions whose features, and then whose other nodes, have the most influence, and those of pins and outputs; null where all are shown. */
export function shownPositions(graph: Graph, work: Work, rows: readonly number[], influence: Float64Array): Set<number> | null {
  if (work.allTokens || graph.tokens.length <= LONG) return null;
  const weight = new Float64Array(graph.tokens.length);
  const features = new Float64Array(graph.tokens.length);
  const always = new Set<number>([graph.tokens.length - 1, ...work.positions]);
  const pinned = new Set(work.pins);
  for (const row of rows) {
    const at = graph.nodes.pos[row];
    if (at < 0) always.add(at);
    else (graph.nodes.kind[row] === FEATURE ? features : weight)[at] += influence[row];
    if (graph.nodes.kind[row] === TARGET || pinned.has(graph.names[row])) always.add(at);
  }
  const order = [...weight.keys()].sort((a, b) => features[b] - features[a] || weight[b] - weight[a] || a - b);
  for (const at of order) if (always.size < MOST_TOKENS) always.add(at);
  return always;
}

function touched(graph: Graph, cut: Cut): Uint8Array {
  const { bounds, source } = graph.edges;
  const used = new Uint8Array(graph.nodes.count);
  for (let row = 0; row < graph.nodes.count; row++) {
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) if (cut.edges[edge]) used[source[edge]] = used[row] = 1;
  }
  return used;
}

export interface Link {
  source: number;
  target: number;
  weight: number;
  /** |weight| as a part of all counted inputs of the target. */
  share: number;
  /** The influence that it carries. */
  carried: number;
}
