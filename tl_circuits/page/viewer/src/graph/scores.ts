// Replacement and completeness, with bounds where features were not expanded: tl_circuits.graph.scores.

import { ERROR, FEATURE, TOKEN, type Graph } from "./graph.ts";
import { nodeInfluence, share, targetShares } from "./influence.ts";
import { withLossesAsErrors, type Merged } from "./losses.ts";
import type { Cut } from "./prune.ts";

export type Bounds = [number, number];

export interface Scores {
  replacement: Bounds;
  completeness: Bounds;
  completenessCircuitTracer: Bounds;
}

export function score(graph: Graph, cut: Cut, constants: boolean): Scores {
  return scoresOf(graph, withLossesAsErrors(graph, cut, constants));
}

export function scoresOf(graph: Graph, { shares, isError }: Merged): Scores {
  const { nodes, expanded } = graph;
  const p = targetShares(graph);
  const influence = nodeInfluence(shares, graph, p);
  let tokens = 0, errors = 0, pending = 0;
  let total = 0, explained = 0, worst = 0, best = 0;
  let everything = 0, lost = 0, bestEverywhere = 0;
  for (let source = 0; source < influence.length; source++) {
    if (isError[source]) errors += influence[source];
    everything += influence[source];
  }
  for (let row = 0; row < nodes.count; row++) {
    const weight = influence[row] + p[row];
    everything += p[row];
    if (nodes.kind[row] === TOKEN) tokens += influence[row];
    if (nodes.kind[row] === FEATURE && !expanded[row]) {
      pending += influence[row];
      worst += weight;
      best += weight * (nodes.layer[row] + 1);
      bestEverywhere += weight * (nodes.layer[row] + 2);
    }
    if (shares.denominator[row] > 0) {
      let wrong = 0;
      for (let edge = shares.edges.bounds[row]; edge < shares.edges.bounds[row + 1]; edge++) {
        if (isError[shares.edges.source[edge]]) wrong += share(shares, row, edge);
      }
      total += weight;
      explained += weight * (1 - wrong);
      lost += weight * wrong;
    }
  }
  everything -= worst;
  const clear = everything - lost;
  return {
    replacement: [ratio(tokens, tokens + errors + pending), ratio(tokens + pending, tokens + errors + pending)],
    completeness: [ratio(explained, total + worst), ratio(explained + best, total + best)],
    completenessCircuitTracer: [ratio(clear + worst, everything + 2 * worst), ratio(clear + bestEverywhere, everything + bestEverywhere)],
  };
}

/** What share of the influence that ends in tokens and errors ends in the errors of each layer; the last entry is what was cut off at the tokens. */
export function errorShares(graph: Graph, { shares, isError }: Merged): number[] {
  const influence = nodeInfluence(shares, graph, targetShares(graph));
  const byLayer = new Array<number>(graph.nLayers).fill(0);
  let beyond = 0, tokens = 0;
  influence.forEach((value, source) => {
    if (source >= graph.nodes.count) beyond += value;
    else if (isError[source] && graph.nodes.kind[source] === ERROR) byLayer[graph.nodes.layer[source]] += value;
    else if (graph.nodes.kind[source] === TOKEN) tokens += value;
  });
  const whole = byLayer.reduce((sum, value) => sum + value, tokens + beyond);
  return [...byLayer, beyond].map((value) => (whole > 0 ? value / whole : 0));
}

function ratio(part: number, whole: number): number {
  return whole > 0 ? part / whole : NaN;
}
