// The strongest paths: best-first from the target down, bounded by the best that each node can still reach.

import type { Graph } from "./graph.ts";
import { Heap } from "./heap.ts";
import { share, targetShares, topDown } from "./influence.ts";
import type { Merged } from "./losses.ts";

export interface Path {
  rows: number[];
  share: number;
  effect: number;
}

/** The k strongest paths from a node (or from wherever influence ends) to a node (or to the targets). */
export function strongest(graph: Graph, merged: Merged, k: number, from: number | null, to: number | null): Path[] {
  const { shares } = merged;
  const p = to === null ? targetShares(graph) : Float64Array.from({ length: graph.nodes.count }, (_, row) => Number(row === to));
  const starts = new Uint8Array(shares.counted.length);
  for (let row = 0; row < graph.nodes.count; row++) starts[row] = Number(from === null ? !graph.expanded[row] : row === from);
  const best = bestShares(graph, merged, starts);
  const queue = new Heap<{ share: number; rows: number[]; done: boolean }>();
  p.forEach((weight, row) => {
    if (weight * best[row] > 0) queue.push(weight * best[row], { share: weight, rows: [row], done: false });
  });
  const found: Path[] = [];
  while (queue.size && found.length < k) {
    const { share: so_far, rows, done } = queue.pop();
    const first = rows[0];
    if (done) {
      found.push({ rows, share: so_far, effect: effect(graph, merged, rows) });
      continue;
    }
    if (starts[first]) queue.push(so_far, { share: so_far, rows, done: true });
    if (first >= graph.nodes.count) continue;
    const steps: { bound: number; portion: number; source: number }[] = [];
    for (let edge = shares.edges.bounds[first]; edge < shares.edges.bounds[first + 1]; edge++) {
      const portion = share(shares, first, edge);
      const source = shares.edges.source[edge];
      if (portion * best[source] > 0) steps.push({ bound: portion * best[source], portion, source });
    }
    steps.sort((a, b) => b.bound - a.bound);
    for (const step of steps.slice(0, k)) {
      queue.push(so_far * step.bound, { share: so_far * step.portion, rows: [step.source, ...rows], done: false });
    }
  }
  return found;
}

function bestShares(graph: Graph, { shares }: Merged, starts: Uint8Array): Float64Array {
  const best = Float64Array.from(starts);
  for (const row of [...topDown(graph)].reverse()) {
    for (let edge = shares.edges.bounds[row]; edge < shares.edges.bounds[row + 1]; edge++) {
      best[row] = Math.max(best[row], share(shares, row, edge) * best[shares.edges.source[edge]]);
    }
  }
  return best;
}

/** The signed effect on the path's end: the source's edge, passed on by each feature in proportion to its activation. */
function effect(graph: Graph, { shares }: Merged, rows: number[]): number {
  let product = 1;
  for (let step = 0; step + 1 < rows.length; step++) {
    const [source, target] = [rows[step], rows[step + 1]];
    for (let edge = shares.edges.bounds[target]; edge < shares.edges.bounds[target + 1]; edge++) {
      if (shares.edges.source[edge] === source) product *= shares.edges.weight[edge];
    }
    if (step > 0) product /= graph.activations[source] || NaN;
  }
  return product;
}
