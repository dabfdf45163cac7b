// The part of a graph that carries most of its influence, as masks: tl_circuits.graph.prune on the same columns.

import { BIAS, B_DEC, ERROR, FEATURE, MASKED, POSITION, type Graph } from "./graph.ts";
import { countedSources, edgeInfluence, leastKept, nodeInfluence, sharesOf, targetShares } from "./influence.ts";

export interface Thresholds {
  nodes: number;
  edges: number;
  errors: boolean;
  constants: boolean;
}

/** Which nodes and edges are kept: 1 or 0 by row. */
export interface Cut {
  nodes: Uint8Array;
  edges: Uint8Array;
}

export function prune(graph: Graph, thresholds: Thresholds, influence: Float64Array | null = null): Cut {
  const counted = countedSources(graph.nodes, thresholds.constants);
  const p = targetShares(graph);
  influence ??= nodeInfluence(sharesOf(graph.edges, counted), graph, p);
  const least = leastKept(influence, thresholds.nodes);
  const kept = graph.nodes.kind.map((kind, row) =>
    Number((influence[row] > 0 && influence[row] >= least) || (kind !== FEATURE && !(thresholds.errors && kind === ERROR))),
  );
  const edges = importantEdges(graph, kept, counted, p, thresholds.edges);
  return thresholds.errors ? withoutDangling(graph, { nodes: kept, edges }, counted) : { nodes: kept, edges };
}

/** These nodes, with the kinds that always stay, and every edge among them: a chosen part of the graph. */
export function chosen(graph: Graph, rows: Iterable<number>): Cut {
  const nodes = graph.nodes.kind.map((kind) => Number(kind !== FEATURE));
  for (const row of rows) nodes[row] = 1;
  return { nodes, edges: among(graph, nodes) };
}

function among(graph: Graph, nodes: Uint8Array): Uint8Array {
  const { bounds, source } = graph.edges;
  const edges = new Uint8Array(source.length);
  for (let row = 0; row < graph.nodes.count; row++) {
    if (!nodes[row]) continue;
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) edges[edge] = nodes[source[edge]];
  }
  return edges;
}

function importantEdges(graph: Graph, kept: Uint8Array, counted: Uint8Array, p: Float64Array, threshold: number): Uint8Array {
  const { bounds, source, weight } = graph.edges;
  const edges = among(graph, kept);
  const shares = sharesOf(graph.edges, counted, edges);
  const influence = nodeInfluence(shares, graph, p);
  const carried = edgeInfluence(shares, influence, p);
  const least = leastKept(carried, threshold);
  const important = new Uint8Array(edges.length);
  for (let row = 0; row < graph.nodes.count; row++) {
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
      if (!edges[edge]) continue;
      // An edge from a source that takes no share is held to the same cut.
      const carries = counted[source[edge]] ? carried[edge] : (Math.abs(weight[edge]) * (influence[row] + p[row])) / shares.denominator[row];
      important[edge] = Number(carries > 0 && carries >= least);
    }
  }
  return important;
}

/** Drops features and errors that feed nothing and features that nothing feeds, until none is left. */
function withoutDangling(graph: Graph, cut: Cut, counted: Uint8Array): Cut {
  const { bounds, source } = graph.edges;
  const { kind, count } = graph.nodes;
  let nodes = cut.nodes;
  for (;;) {
    const edges = new Uint8Array(source.length);
    const feeds = new Uint8Array(count);
    const isFed = new Uint8Array(count);
    for (let row = 0; row < count; row++) {
      for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
        if (!cut.edges[edge] || !nodes[row] || !nodes[source[edge]]) continue;
        edges[edge] = 1;
        feeds[source[edge]] = 1;
        isFed[row] ||= counted[source[edge]];
      }
    }
    const left = nodes.map((keep, row) => {
      const inner = kind[row] === FEATURE || kind[row] === ERROR;
      const reads = kind[row] === FEATURE && graph.expanded[row];
      return Number(keep && (feeds[row] || !inner) && (isFed[row] || !reads));
    });
    if (left.every((keep, row) => keep === nodes[row])) return { nodes, edges };
    nodes = left;
  }
}

export function isConstant(kind: number): boolean {
  return kind === POSITION || kind === MASKED || kind === B_DEC || kind === BIAS;
}
