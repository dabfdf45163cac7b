// Which nodes a word finds: labels, tokens, outputs, and names such as L2/623.

import { FEATURE, TARGET, TOKEN, labelOf, type Graph } from "../graph/graph.ts";

/** Rows, the best first: names before labels that begin so, before labels that hold the word; then by influence. */
export function search(graph: Graph, labels: ReadonlyMap<string, string>, extra: ReadonlyMap<string, string>, influence: Float64Array, query: string): number[] {
  const word = query.trim().toLowerCase();
  if (!word) return [];
  const found: { row: number; rank: number }[] = [];
  for (let row = 0; row < graph.nodes.count; row++) {
    const kind = graph.nodes.kind[row];
    const name = graph.names[row].toLowerCase();
    const spoken = kind === FEATURE || kind === TOKEN || kind === TARGET ? labelOf(graph, labels, row).trim().toLowerCase() : "";
    const rank = name === word || name.startsWith(`${word}@`) ? 0 : spoken.startsWith(word) ? 1 : spoken.includes(word) ? 2 : name.startsWith(word) ? 3 : said(graph, extra, row, word) ? 4 : -1;
    if (rank >= 0) found.push({ row, rank });
  }
  return found.sort((a, b) => a.rank - b.rank || influence[b.row] - influence[a.row] || a.row - b.row).map(({ row }) => row);
}

function said(graph: Graph, extra: ReadonlyMap<string, string>, row: number, word: string): boolean {
  return graph.nodes.kind[row] === FEATURE && (extra.get(`${graph.nodes.layer[row]}/${graph.nodes.index[row]}`) ?? "").includes(word);
}
