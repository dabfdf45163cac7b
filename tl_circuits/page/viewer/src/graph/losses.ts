// What was cut off counts as error at its layer and position: tl_circuits.graph.losses on masks.

import { BIAS, ERROR, type Edges, type Graph } from "./graph.ts";
import { countedSources, sharesOf, type Shares } from "./influence.ts";
import { isConstant, type Cut } from "./prune.ts";

export interface Merged {
  shares: Shares;
  /** 1 at the sources that are errors; sources beyond the nodes are what was cut off elsewhere. */
  isError: Uint8Array;
}

/** The edges of what is kept, with all that was cut off added to the errors at its place. */
export function withLossesAsErrors(graph: Graph, cut: Cut, constants: boolean): Merged {
  const places = new Places(graph, cut);
  const lossOf = Int32Array.from({ length: graph.nodes.count }, (_, row) => places.ofNode(row));
  const former = graph.pruned;
  const formerOf = former ? Int32Array.from({ length: former.lost.count }, (_, row) => places.of(former.lost.kind[row], former.lost.layer[row], former.lost.pos[row])) : null;
  const edges = merge(graph, cut, lossOf, formerOf, places.size);
  const counted = new Uint8Array(places.size);
  counted.set(countedSources(graph.nodes, constants));
  const isError = Uint8Array.from({ length: places.size }, (_, row) => Number(row >= graph.nodes.count || graph.nodes.kind[row] === ERROR));
  places.kinds.forEach((kind, offset) => (counted[graph.nodes.count + offset] = Number(kind === ERROR || constants)));
  return { shares: sharesOf(edges, counted), isError };
}

/** The columns in which losses are booked: error nodes that stay, and new ones after the nodes. */
class Places {
  readonly kinds: number[] = [];
  private readonly columns = new Map<number, number>();

  constructor(private readonly graph: Graph, cut: Cut) {
    const { kind, layer, pos, count } = graph.nodes;
    for (let row = 0; row < count; row++) {
      if (kind[row] === ERROR && cut.nodes[row]) this.columns.set(this.key(ERROR, layer[row], pos[row]), row);
    }
  }

  get size(): number {
    return this.graph.nodes.count + this.kinds.length;
  }

  ofNode(row: number): number {
    const { kind, layer, pos } = this.graph.nodes;
    return this.of(isConstant(kind[row]) ? BIAS : ERROR, layer[row], pos[row]);
  }

  of(kind: number, layer: number, pos: number): number {
    const key = this.key(kind, layer, pos);
    let column = this.columns.get(key);
    if (column === undefined) {
      column = this.size;
      this.columns.set(key, column);
      this.kinds.push(kind);
    }
    return column;
  }

  private key(kind: number, layer: number, pos: number): number {
    return (kind * (this.graph.nLayers + 3) + layer + 1) * (this.graph.tokens.length + 2) + pos + 1;
  }
}

function merge(graph: Graph, cut: Cut, lossOf: Int32Array, formerOf: Int32Array | null, nColumns: number): Edges {
  const { bounds, source, weight } = graph.edges;
  const into = graph.pruned?.into;
  const starts = new Int32Array(graph.nodes.count + 1);
  const sums = new Float64Array(nColumns);
  const seen = new Uint8Array(nColumns);
  const sources: number[] = [];
  const weights: number[] = [];
  let touched: number[] = [];
  const add = (column: number, value: number) => {
    if (!seen[column]) {
      seen[column] = 1;
      touched.push(column);
    }
    sums[column] += value;
  };
  for (let row = 0; row < graph.nodes.count; row++) {
    if (cut.nodes[row]) {
      for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
        add(cut.edges[edge] ? source[edge] : lossOf[source[edge]], weight[edge]);
      }
      if (into && formerOf) {
        for (let edge = into.bounds[row]; edge < into.bounds[row + 1]; edge++) add(formerOf[into.source[edge]], into.weight[edge]);
      }
    }
    touched.sort((a, b) => a - b);
    for (const column of touched) {
      sources.push(column);
      weights.push(sums[column]);
      sums[column] = 0;
      seen[column] = 0;
    }
    touched = [];
    starts[row + 1] = sources.length;
  }
  return { bounds: starts, source: Int32Array.from(sources), weight: Float64Array.from(weights) };
}
