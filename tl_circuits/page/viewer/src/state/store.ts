// The page's state: what a person did (undoable), what they look at (not), and everything that follows from the two.

import { computed, signal, type ReadonlySignal, type Signal } from "@preact/signals";
import { FEATURE, featureKey, visible, type Graph } from "../graph/graph.ts";
import { countedSources, edgeInfluence, nodeInfluence, sharesOf, targetShares, type Shares } from "../graph/influence.ts";
import { withLossesAsErrors, type Merged } from "../graph/losses.ts";
import { chosen, prune, type Cut } from "../graph/prune.ts";
import { score, scoresOf, type Scores } from "../graph/scores.ts";
import { ALIKE, suggest, type Suggestion } from "../graph/suggest.ts";
import { search } from "../view/search.ts";
import { shownPositions, shownRows, type Link } from "../view/shown.ts";
import { begin, redo, step, undo, type History } from "./history.ts";
import type { PageData, Run } from "./page.ts";
import { asWork, FRESH, type Work } from "./work.ts";

export type Dialog = "help" | "provenance" | "export" | "link" | "filters" | null;
export type Pane = "graph" | "node" | "subgraph" | "paths" | "runs" | "diff";
export const MOST_LINKS = 2000;

export interface Store {
  graph: Graph;
  page: PageData;
  history: Signal<History<Work>>;
  selected: Signal<number | null>;
  hovered: Signal<number | null>;
  marked: Signal<ReadonlySet<number>>;
  query: Signal<string>;
  asTable: Signal<boolean>;
  pane: Signal<Pane>;
  /** The ends of the paths that are shown; null where any will do. */
  from: Signal<number | null>;
  to: Signal<number | null>;
  dialog: Signal<Dialog>;
  said: Signal<string>;
  /** What a person has to know, until they close it. */
  notice: Signal<string>;
  renaming: Signal<string | null>;
  /** Interventions: those recorded with the page, or what its kernel has run. */
  runs: Signal<Run[]>;
  work: ReadonlySignal<Work>;
  labels: ReadonlySignal<ReadonlyMap<string, string>>;
  /** Of the whole graph, so that figures do not move with the sliders. */
  influence: Float64Array;
  shares: Shares;
  flow: Float64Array;
  cut: ReadonlySignal<Cut>;
  merged: ReadonlySignal<Merged>;
  scores: ReadonlySignal<Scores>;
  pinnedScores: ReadonlySignal<Scores | null>;
  rows: ReadonlySignal<number[]>;
  /** The strongest edges on display, weakest first: as many as are drawn. */
  links: ReadonlySignal<Link[]>;
  /** How many edges are on display: kept, between nodes on display, of the sign that is asked for. */
  nShown: ReadonlySignal<number>;
  /** All edges on display, strongest first. */
  everyLink(): Link[];
  /** How many edges pruning kept. */
  nEdges: ReadonlySignal<number>;
  found: ReadonlySignal<number[]>;
  /** Groups that nobody has accepted yet; null while none were asked for. */
  suggestions: Signal<Suggestion[] | null>;
  /** Rows that are lit in the graph while a suggestion is looked at. */
  lit: Signal<readonly number[]>;
  /** Positions on display where the prompt is long; null where all are. */
  positions: ReadonlySignal<ReadonlySet<number> | null>;
  /** Groups of the features on display that belong to no supernode. */
  suggest(): void;
  linksOf(row: number): { inputs: Link[]; outputs: Link[]; hidden: number };
  change(next: Work, key?: string): void;
  undo(): void;
  redo(): void;
  select(row: number | null): void;
  say(text: string): void;
}

export function createStore(graph: Graph, page: PageData): Store {
  const fresh = graph.pruned ? { ...FRESH, nodes: 1, edges: 1 } : FRESH;
  const history = signal(begin(asWork(page.work, fresh)));
  const work = computed(() => history.value.now);
  const p = targetShares(graph);
  const counted = countedSources(graph.nodes, false);
  const shares = sharesOf(graph.edges, counted);
  const whole: Cut = { nodes: new Uint8Array(graph.nodes.count).fill(1), edges: new Uint8Array(graph.edges.source.length).fill(1) };
  const influence = nodeInfluence(graph.pruned ? withLossesAsErrors(graph, whole, false).shares : shares, graph, p).slice(0, graph.nodes.count);
  const flow = influence.map((value, row) => value + p[row]);
  const carried = edgeInfluence(shares, influence, p);
  const order = Uint32Array.from(carried.keys()).sort((a, b) => carried[b] - carried[a]);
  const targetOf = targets(graph);
  const link = (edge: number): Link => ({
    source: graph.edges.source[edge],
    target: targetOf[edge],
    weight: graph.edges.weight[edge],
    share: shares.denominator[targetOf[edge]] > 0 ? Math.abs(graph.edges.weight[edge]) / shares.denominator[targetOf[edge]] : 0,
    carried: carried[edge],
  });

  const thresholds = computed(() => {
    const { nodes, edges, errors, constants } = work.value;
    return JSON.stringify({ nodes, edges, errors, constants });
  });
  const cut = computed(() => prune(graph, JSON.parse(thresholds.value)));
  const merged = computed(() => withLossesAsErrors(graph, cut.value, JSON.parse(thresholds.value).constants));
  const scores = computed(() => scoresOf(graph, merged.value));
  const pinnedRows = computed(() => work.value.pins.map((name) => graph.rowOf.get(name)).filter((row) => row !== undefined));
  const pinnedScores = computed(() => (pinnedRows.value.length ? score(graph, chosen(graph, pinnedRows.value), work.value.constants) : null));
  const labels = computed(() => new Map([...graph.labels, ...Object.entries(work.value.labels)]));
  const density = (row: number) => (graph.nodes.kind[row] === FEATURE ? page.cards[featureKey(graph, row)]?.density : null);
  const every = computed(() => shownRows(graph, work.value, cut.value, density));
  const positions = computed(() => shownPositions(graph, work.value, every.value, influence));
  const rows = computed(() => (positions.value ? every.value.filter((row) => positions.value!.has(graph.nodes.pos[row])) : every.value));
  const said = computed(() => cardTexts(page));
  const shownEdges = computed(() => {
    const shown = new Uint8Array(graph.nodes.count);
    for (const row of rows.value) shown[row] = 1;
    const { sign } = work.value;
    const kept = cut.value.edges;
    return order.filter((edge) => kept[edge] && shown[graph.edges.source[edge]] && shown[targetOf[edge]] && agrees(sign, graph.edges.weight[edge]));
  });
  const links = computed(() => Array.from(shownEdges.value.subarray(0, MOST_LINKS), link).reverse());
  const outputs = outgoing(graph);
  const query = signal("");
  const selected = signal<number | null>(null);
  const saying = signal("");
  const pane = signal<Pane>("graph");
  const suggestions = signal<Suggestion[] | null>(null);
  return {
    graph, page, history, work, labels, influence, shares, flow, cut, merged, scores, pinnedScores, rows, links, query, selected,
    nShown: computed(() => shownEdges.value.length),
    everyLink: () => Array.from(shownEdges.value, link),
    hovered: signal(null),
    runs: signal(page.runs),
    marked: signal<ReadonlySet<number>>(new Set()),
    asTable: signal(false),
    pane,
    from: signal<number | null>(null),
    to: signal<number | null>(null),
    dialog: signal<Dialog>(null),
    said: saying,
    notice: signal(""),
    renaming: signal(null),
    nEdges: computed(() => cut.value.edges.reduce((sum, kept) => sum + kept, 0)),
    suggestions,
    lit: signal<readonly number[]>([]),
    positions,
    suggest() {
      const taken = new Set(work.value.supernodes.flatMap((one) => one.members));
      const free = rows.value.filter((row) => graph.nodes.kind[row] === FEATURE && !taken.has(graph.names[row]));
      suggestions.value = suggest(graph, labels.value, shares, influence, free, ALIKE);
      saying.value = suggestions.value.length ? `${suggestions.value.length} ${suggestions.value.length === 1 ? "group" : "groups"} suggested.` : "No features on display are alike enough to be a group.";
    },
    found: computed(() => search(graph, labels.value, said.value, influence, query.value)),
    linksOf(row) {
      const { bounds } = graph.edges;
      const kept = cut.value.edges;
      const { sign } = work.value;
      const into = Array.from({ length: bounds[row + 1] - bounds[row] }, (_, at) => bounds[row] + at);
      const both = [into, outputs(row)].map((edges) => edges.filter((edge) => kept[edge] && agrees(sign, graph.edges.weight[edge])).map(link).sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight)));
      return { inputs: both[0], outputs: both[1], hidden: into.length + outputs(row).length - both[0].length - both[1].length };
    },
    change(next, key) {
      if (next !== work.value) history.value = step(history.value, next, key ?? null, Date.now());
    },
    undo() {
      if (history.value.past.length) saying.value = "Undone.";
      history.value = undo(history.value);
    },
    redo() {
      if (history.value.future.length) saying.value = "Done again.";
      history.value = redo(history.value);
    },
    select(row) {
      selected.value = row;
    },
    say(text) {
      saying.value = text && visible(text);
    },
  };
}

/** What a person knows of several rows: the names by which work holds them. */
export function namesOf(graph: Graph, rows: Iterable<number>): string[] {
  return [...rows].map((row) => graph.names[row]);
}

export function keyOf(graph: Graph, row: number): string {
  return featureKey(graph, row);
}

function agrees(sign: Work["sign"], weight: number): boolean {
  return sign === "both" || (sign === "positive") === weight > 0;
}

function targets(graph: Graph): Int32Array {
  const { bounds, source } = graph.edges;
  const found = new Int32Array(source.length);
  for (let row = 0; row < graph.nodes.count; row++) found.fill(row, bounds[row], bounds[row + 1]);
  return found;
}

function outgoing(graph: Graph): (row: number) => number[] {
  const { source } = graph.edges;
  let bySource: number[][] | null = null;
  return (row) => {
    if (!bySource) {
      bySource = Array.from({ length: graph.nodes.count }, () => []);
      source.forEach((from, edge) => bySource![from].push(edge));
    }
    return bySource[row];
  };
}

function cardTexts(page: PageData): Map<string, string> {
  return new Map(Object.entries(page.cards).map(([key, card]) => [key, (card.top_logits ?? []).map(([token]) => token).join(" ").toLowerCase()]));
}
