// How numbers and nodes are put into words.

import { ERROR, FEATURE, KINDS, POSITION, TARGET, TOKEN, labelOf, visible, type Graph } from "../graph/graph.ts";

export function signed(value: number): string {
  return `${value < 0 ? "−" : "+"}${plain(Math.abs(value))}`;
}

export function plain(value: number): string {
  if (Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5)) return value.toExponential(1);
  return value.toFixed(size < 0.1 ? 3 : size < 100 ? 2 : 0);
}

export function percent(share: number): string {
  if (Number.isNaN(share)) return "–";
  const value = share * 100;
  return `${value !== 0 && Math.abs(value) < 10 ? value.toFixed(1) : value.toFixed(0)}%`;
}

export function bounds([low, high]: [number, number]): string {
  return high - low > 0.0005 ? `${percent(low)}–${percent(high)}` : percent(low);
}

/** A node's label, or what it is where it has none. */
export function called(graph: Graph, labels: ReadonlyMap<string, string>, row: number): string {
  const label = labelOf(graph, labels, row);
  const kind = graph.nodes.kind[row];
  if (kind === TOKEN || kind === TARGET) return `“${visible(label)}”`;
  if (kind === FEATURE) return label ? visible(label) : graph.names[row];
  if (kind === ERROR) return `error of L${graph.nodes.layer[row]} at “${visible(graph.tokens[graph.nodes.pos[row]])}”`;
  if (kind === POSITION) return `position ${graph.nodes.pos[row]}`;
  return `${KINDS[kind]}${graph.nodes.layer[row] >= 0 ? ` of layer ${graph.nodes.layer[row]}` : ""}`;
}

/** How a node is written, where that is not what it is called anyway. */
export function written(graph: Graph, labels: ReadonlyMap<string, string>, row: number): string {
  return called(graph, labels, row) === graph.names[row] ? "" : graph.names[row];
}

export function where(graph: Graph, row: number): string {
  const pos = graph.nodes.pos[row];
  return pos < 0 ? graph.names[row] : `${graph.names[row]} at “${visible(graph.tokens[pos])}”`;
}

export function count(number: number, noun: string): string {
  return `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
}
