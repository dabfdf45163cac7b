// What is on display as CSV, for spreadsheets.

import { KINDS, labelOf, type Graph } from "../graph/graph.ts";
import type { Link } from "../view/shown.ts";

export function nodesCsv(graph: Graph, labels: ReadonlyMap<string, string>, influence: Float64Array, rows: readonly number[]): string {
  const lines = rows.map((row) => [
    graph.names[row], KINDS[graph.nodes.kind[row]], graph.nodes.layer[row], graph.nodes.pos[row], graph.nodes.index[row],
    labelOf(graph, labels, row), graph.tokens[graph.nodes.pos[row]] ?? "", graph.activations[row], influence[row],
  ]);
  return csv([["node", "kind", "layer", "pos", "index", "label", "token", "activation", "influence"], ...lines]);
}

export function edgesCsv(graph: Graph, links: readonly Link[]): string {
  return csv([["source", "target", "weight", "share"], ...links.map((link) => [graph.names[link.source], graph.names[link.target], link.weight, link.share])]);
}

export function csv(lines: readonly (readonly (string | number)[])[]): string {
  return lines.map((line) => line.map(field).join(",")).join("\r\n") + "\r\n";
}

/** A text that a spreadsheet would take for a formula is written with an apostrophe before it. */
function field(value: string | number): string {
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  const safe = /^'*[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replace(/"/g, '""')}"` : safe;
}

/** The lines of a CSV text. The apostrophe before what looks like a formula is taken away again. */
export function readCsv(text: string): string[][] {
  const lines: string[][] = [];
  let line: string[] = [];
  for (const match of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    const field = match[1] !== undefined ? match[1].replace(/""/g, '"') : match[2] ?? "";
    if (match[3] === "" && field === "" && !line.length) break;
    line.push(field.replace(/^'(?='*[=+\-@\t\r])/, ""));
    if (match[3] === ",") continue;
    lines.push(line);
    line = [];
    if (match[3] === "") break;
  }
  return lines;
}
