// The rows of the table, sorted as asked.

import { KINDS, labelOf, type Graph } from "../graph/graph.ts";

export const COLUMNS = ["node", "label", "kind", "layer", "token", "activation", "influence"] as const;
export type Column = (typeof COLUMNS)[number];

export interface Order {
  column: Column;
  descending: boolean;
}

export function cell(graph: Graph, labels: ReadonlyMap<string, string>, influence: Float64Array, row: number, column: Column): string | number {
  switch (column) {
    case "node":
      return graph.names[row];
    case "label":
      return labelOf(graph, labels, row);
    case "kind":
      return KINDS[graph.nodes.kind[row]];
    case "layer":
      return graph.nodes.layer[row];
    case "token":
      return graph.nodes.pos[row];
    case "activation":
      return graph.activations[row];
    case "influence":
      return influence[row];
  }
}

/** Numbers that are none come last, whichever way. */
export function sortRows(graph: Graph, labels: ReadonlyMap<string, string>, influence: Float64Array, rows: readonly number[], order: Order): number[] {
  const sign = order.descending ? -1 : 1;
  const keys = new Map(rows.map((row) => [row, cell(graph, labels, influence, row, order.column)]));
  return [...rows].sort((a, b) => {
    const [left, right] = [keys.get(a)!, keys.get(b)!];
    if (typeof left === "number" && typeof right === "number") {
      if (Number.isNaN(left) || Number.isNaN(right)) return Number(Number.isNaN(left)) - Number(Number.isNaN(right)) || a - b;
      return sign * (left - right) || a - b;
    }
    return sign * String(left).localeCompare(String(right), undefined, { numeric: true }) || a - b;
  });
}
