// How much of the targets' value each node and edge carries: I = pᵀB, as tl_circuits.graph.influence has it.

import { ERROR, FEATURE, TARGET, TOKEN, type Edges, type Graph, type Nodes } from "./graph.ts";

export const ROUNDING = 1e-9;

/** Â: each edge's part of the magnitude of its row's counted inputs. Edges that are not live do not count. */
export interface Shares {
  edges: Edges;
  counted: Uint8Array;
  denominator: Float64Array;
  live: Uint8Array | null;
}

export function sharesOf(edges: Edges, counted: Uint8Array, live: Uint8Array | null = null): Shares {
  const { bounds, source, weight } = edges;
  const denominator = new Float64Array(bounds.length - 1);
  for (let row = 0; row < denominator.length; row++) {
    let sum = 0;
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
      if (counted[source[edge]] && (!live || live[edge])) sum += Math.abs(weight[edge]);
    }
    denominator[row] = sum;
  }
  return { edges, counted, denominator, live };
}

export function share(shares: Shares, row: number, edge: number): number {
  if (!shares.counted[shares.edges.source[edge]] || (shares.live && !shares.live[edge])) return 0;
  const whole = shares.denominator[row];
  return whole > 0 ? Math.abs(shares.edges.weight[edge]) / whole : 0;
}

/** 1 at the kinds over which inputs are normalised: features, errors and tokens, or with constants all. */
export function countedSources(nodes: Nodes, constants: boolean): Uint8Array {
  return nodes.kind.map((kind) => Number(constants ? kind !== TARGET : kind === FEATURE || kind === ERROR || kind === TOKEN));
}

export function targetShares(graph: Graph): Float64Array {
  const p = new Float64Array(graph.nodes.count);
  const total = graph.targetWeights.reduce((sum, weight) => sum + Math.abs(weight), 0);
  graph.targetWeights.forEach((weight, number) => (p[graph.firstTarget + number] = Math.abs(weight) / total));
  return p;
}

/** Rows, each after every row that it feeds: the targets, then the features from the last one down. */
export function* topDown(graph: Graph): Generator<number> {
  for (let row = graph.firstTarget; row < graph.nodes.count; row++) yield row;
  for (let row = graph.nFeatures - 1; row >= 0; row--) yield row;
}

export function nodeInfluence(shares: Shares, graph: Graph, p: Float64Array): Float64Array {
  const { bounds, source, weight } = shares.edges;
  const { counted, denominator, live } = shares;
  const influence = new Float64Array(counted.length);
  for (const row of topDown(graph)) {
    const flow = influence[row] + p[row];
    const whole = denominator[row];
    if (flow === 0 || whole === 0) continue;
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
      const from = source[edge];
      if (counted[from] && (!live || live[edge])) influence[from] += (flow * Math.abs(weight[edge])) / whole;
    }
  }
  return influence;
}

/** What of the influence each edge carries: Â_ts · (I_t + p_t). */
export function edgeInfluence(shares: Shares, influence: Float64Array, p: Float64Array): Float64Array {
  const { bounds, weight } = shares.edges;
  const carried = new Float64Array(weight.length);
  for (let row = 0; row < p.length; row++) {
    const flow = influence[row] + p[row];
    if (flow === 0) continue;
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) carried[edge] = share(shares, row, edge) * flow;
  }
  return carried;
}

/** The share of all influence that a node and those before it carry, sorted from the largest. */
export function cumulative(influence: Float64Array): Float64Array {
  const order = Array.from(influence.keys()).sort((a, b) => influence[b] - influence[a] || a - b);
  const found = new Float64Array(influence.length);
  let running = 0;
  for (const row of order) found[row] = running += influence[row];
  return running > 0 ? found.map((value) => value / running) : found;
}

/** The score from which upwards all are kept, so that they make up so much of the sum; ties are in. */
export function leastKept(scores: Float64Array, threshold: number): number {
  const scored = scores.filter((score) => score > 0).sort();
  if (threshold >= 1 || scored.length === 0) return 0;
  const total = scored.reduceRight((sum, score) => sum + score, 0);
  const wanted = threshold * (1 - ROUNDING);
  let running = 0;
  for (let place = scored.length - 1; place >= 0; place--) {
    running += scored[place];
    if (running / total >= wanted) return scored[place] * (1 - ROUNDING);
  }
  return scored[0] * (1 - ROUNDING);
}
