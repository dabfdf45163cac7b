// Features that could stand together as a supernode, as tl_circuits.graph.suggest has it: those at one position whose
// value comes from the same tokens, with signs and through all features in between.

import { ERROR, TOKEN, labelOf, type Graph } from "./graph.ts";
import { share, type Shares } from "./influence.ts";

export interface Suggestion {
  label: string;
  /** In the graph's order. */
  rows: number[];
}

const MOST_FEATURES = 200;
const GRID = 1e9;
const LEAST_NAMED = 2 / 3;
export const ALIKE = 0.75;

/** What part of each feature's inputs comes from each position's token and, behind those, from its errors; one row for each feature. */
export function origins(graph: Graph, shares: Shares): Float64Array[] {
  const { kind, pos } = graph.nodes;
  const { bounds, source, weight } = shares.edges;
  const nPos = graph.tokens.length;
  const found: Float64Array[] = [];
  // Features stand first, those of lower layers before others: whatever a row reads is there already.
  for (let row = 0; row < graph.nFeatures; row++) {
    const own = new Float64Array(2 * nPos);
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
      const from = source[edge];
      const part = share(shares, row, edge) * Math.sign(weight[edge]);
      if (part === 0) continue;
      if (kind[from] === TOKEN) own[pos[from]] += part;
      else if (kind[from] === ERROR) own[nPos + pos[from]] += part;
      else if (from < graph.nFeatures) found[from].forEach((value, at) => (own[at] += part * value));
    }
    found.push(own);
  }
  return found;
}

/** Groups of at least two of these features, the most influential first. */
export function suggest(graph: Graph, labels: ReadonlyMap<string, string>, shares: Shares, influence: Float64Array, features: readonly number[], alike: number): Suggestion[] {
  const rows = [...features].sort((a, b) => a - b);
  const whence = origins(graph, shares);
  const found: number[][] = [];
  for (const at of [...new Set(rows.map((row) => graph.nodes.pos[row]))].sort((a, b) => a - b)) {
    const here = rows.filter((row) => graph.nodes.pos[row] === at).sort((a, b) => influence[b] - influence[a] || a - b).slice(0, MOST_FEATURES).sort((a, b) => a - b);
    found.push(...linked(cosines(here.map((row) => whence[row])), alike).map((group) => group.map((place) => here[place])));
  }
  const weight = (group: readonly number[]) => group.reduce((sum, row) => sum + influence[row], 0);
  const groups = found.filter((group) => group.length > 1).sort((a, b) => weight(b) - weight(a) || a[0] - b[0]);
  const names: string[] = [];
  const said = wordsOf(graph, labels, influence, rows);
  for (const group of groups) names.push(distinct(named(graph, labels, said, group), names));
  return groups.map((group, at) => ({ label: names[at], rows: group }));
}

function cosines(vectors: readonly Float64Array[]): Float64Array[] {
  const length = vectors.map((vector) => Math.sqrt(vector.reduce((sum, value) => sum + value * value, 0)));
  const unit = vectors.map((vector, at) => vector.map((value) => value / (length[at] || 1)));
  return unit.map((one) => Float64Array.from(unit, (other) => Math.round(one.reduce((sum, value, at) => sum + value * other[at], 0) * GRID)));
}

/** Average linkage: the two groups whose members are most alike on average are joined while that is `alike` at least; of equal pairs the first. */
function linked(likeness: Float64Array[], alike: number): number[][] {
  const groups = likeness.map((_, place) => [place]);
  const sums = likeness.map((row) => [...row]);
  for (;;) {
    let [first, second, most] = [0, 0, -Infinity];
    for (let i = 0; i < groups.length; i++) {
      for (let j = i + 1; j < groups.length; j++) {
        const mean = sums[i][j] / (groups[i].length * groups[j].length);
        if (mean > most) [first, second, most] = [i, j, mean];
      }
    }
    if (second === 0 || most < alike * GRID) return groups;
    groups[first] = [...groups[first], ...groups.splice(second, 1)[0]].sort((a, b) => a - b);
    const [gone] = sums.splice(second, 1);
    sums[first] = sums[first].map((value, at) => value + gone[at]);
    for (const row of sums) {
      row[first] += row[second];
      row.splice(second, 1);
    }
  }
}

interface Words {
  weight: Map<number, number>;
  said: Map<number, Map<string, string>>;
  /** How much influence the features have that have a word in their labels. */
  having: Map<string, number>;
  whole: number;
}

function wordsOf(graph: Graph, labels: ReadonlyMap<string, string>, influence: Float64Array, rows: readonly number[]): Words {
  const weight = new Map(rows.map((row) => [row, influence[row]]));
  const said = new Map(rows.map((row) => [row, words(labelOf(graph, labels, row))]));
  const having = new Map<string, number>();
  for (const [row, own] of said) for (const word of own.keys()) having.set(word, (having.get(word) ?? 0) + weight.get(row)!);
  return { weight, said, having, whole: rows.reduce((sum, row) => sum + influence[row], 0) };
}

/** The word that most of a group has in its labels, and others have not; empty where there is none. */
function telling({ weight, said, having, whole }: Words, order: readonly number[]): string {
  const sum = (rows: readonly number[]) => rows.reduce((total, row) => total + weight.get(row)!, 0);
  const inside = sum(order);
  const part = (some: number, all: number) => (all > 0 ? some / all : 0);
  let [best, most] = ["", -1];
  for (const word of new Set(order.flatMap((row) => [...said.get(row)!.keys()]))) {
    const own = sum(order.filter((row) => said.get(row)!.has(word)));
    const [here, there] = [part(own, inside), part(having.get(word)! - own, whole - inside)];
    const tells = Math.round((here - there) * GRID);
    if (here >= LEAST_NAMED && tells > most) [best, most] = [order.map((row) => said.get(row)!.get(word)).find((text) => text !== undefined)!, tells];
  }
  return best;
}

/** The word that tells a group from others; else what its first member is called. */
function named(graph: Graph, labels: ReadonlyMap<string, string>, found: Words, group: readonly number[]): string {
  const order = [...group].sort((a, b) => found.weight.get(b)! - found.weight.get(a)! || a - b);
  return telling(found, order) || [...labelOf(graph, labels, order[0])].slice(0, 40).join("").trim() || `${graph.names[order[0]]} and ${group.length - 1} more`;
}

function words(label: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const word of label.match(/\p{L}[\p{L}\p{N}_'-]{2,}/gu) ?? []) if (!found.has(word.toLowerCase())) found.set(word.toLowerCase(), word);
  return found;
}

function distinct(name: string, taken: readonly string[]): string {
  let free = name;
  for (let number = 2; taken.includes(free); number++) free = `${name} ${number}`;
  return free;
}
