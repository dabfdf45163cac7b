// What is on display as DOT, the language of Graphviz, as AttributionGraph.to_dot writes it.

import { ERROR, FEATURE, TARGET, labelOf, type Graph } from "../graph/graph.ts";
import type { Link } from "../view/shown.ts";

export function dot(graph: Graph, labels: ReadonlyMap<string, string>, rows: readonly number[], links: readonly Link[]): string {
  const shape = (row: number) => (graph.nodes.kind[row] === FEATURE ? "ellipse" : graph.nodes.kind[row] === ERROR ? "diamond" : "box");
  const ranks = new Map<number, string[]>();
  for (const row of rows) {
    const level = graph.nodes.kind[row] === TARGET ? graph.nLayers : graph.nodes.layer[row];
    ranks.set(level, [...(ranks.get(level) ?? []), quoted(graph.names[row])]);
  }
  return [
    "digraph {",
    "  rankdir=BT; node [fontname=Helvetica, fontsize=10]; edge [arrowsize=0.5];",
    ...rows.map((row) => `  ${quoted(graph.names[row])} [label=${quoted(labelOf(graph, labels, row) || graph.names[row])}, shape=${shape(row)}];`),
    ...[...ranks].sort(([a], [b]) => a - b).map(([, names]) => `  { rank=same; ${names.join("; ")}; }`),
    ...links.map((link) => {
      const look = link.weight < 0 ? 'color="#b34d00", style=dashed' : 'color="#1a63b0"';
      return `  ${quoted(graph.names[link.source])} -> ${quoted(graph.names[link.target])} [weight=${Math.max(1, Math.round(100 * link.share))}, penwidth=${(0.3 + 4 * link.share).toFixed(2)}, ${look}];`;
    }),
    "}",
    "",
  ].join("\n");
}

/** Whatever a backslash would start is text too. */
function quoted(text: string): string {
  const plain = text.replace(/\n/g, "␤").replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, "�");
  return `"${plain.replace(/\\/g, "\\\\").replace(/"/g, '\\"')}"`;
}
