// What leads to a node, and what it leads to.

import type { Graph } from "../graph/graph.ts";
import type { Cut } from "../graph/prune.ts";

/** Rows in the graph's order, the one that is asked for included. */
export function cone(graph: Graph, cut: Cut, row: number, end: "source" | "target"): number[] {
  const { bounds, source } = graph.edges;
  const inside = new Uint8Array(graph.nodes.count);
  inside[row] = 1;
  // Rows do not stand in the order of influence, so whatever changed is looked at again.
  for (let changed = true; changed; ) {
    changed = false;
    for (let target = 0; target < graph.nodes.count; target++) {
      for (let edge = bounds[target]; edge < bounds[target + 1]; edge++) {
        if (!cut.edges[edge]) continue;
        const [from, to] = end === "source" ? [target, source[edge]] : [source[edge], target];
        if (inside[from] && !inside[to]) inside[to] = 1, (changed = true);
      }
    }
  }
  return [...inside.keys()].filter((node) => inside[node]);
}
