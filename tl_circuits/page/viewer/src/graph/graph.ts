// An attribution graph as its file holds it: nodes in columns, edges as rows of inputs.

import { readTensors, type Tensor } from "./tensors.ts";

export const FEATURE = 0, ERROR = 1, TOKEN = 2, POSITION = 3, MASKED = 4, B_DEC = 5, BIAS = 6, TARGET = 7;
export const KINDS = ["feature", "error", "token", "position", "masked", "b_dec", "bias", "target"] as const;

export interface Nodes {
  count: number;
  kind: Uint8Array;
  layer: Int32Array;
  pos: Int32Array;
  index: Float64Array;
}

/** Row t holds the inputs of node t: source[bounds[t]] up to source[bounds[t + 1]]. */
export interface Edges {
  bounds: Int32Array;
  source: Int32Array;
  weight: Float64Array;
}

export interface Pruned {
  nodeThreshold: number;
  edgeThreshold: number;
  nodesBefore: number;
  edgesBefore: number;
  cumulative: Float64Array;
  lost: Nodes;
  into: Edges;
}

export interface Graph {
  nodes: Nodes;
  edges: Edges;
  activations: Float64Array;
  totals: Float64Array;
  expanded: Uint8Array;
  targetWeights: Float64Array;
  targetProbabilities: Float64Array;
  targetLabels: string[];
  tokens: string[];
  conservationError: number;
  probeError: number;
  coverage: number;
  provenance: Record<string, unknown>;
  nLayers: number;
  labels: Map<string, string>;
  pruned: Pruned | null;
  names: string[];
  rowOf: Map<string, number>;
  firstTarget: number;
  nFeatures: number;
}

export class Problems extends Error {
  constructor(public readonly problems: string[]) {
    super(problems.join("\n"));
  }
}

/** Throws Problems, the first five of them, where the bytes hold no lawful graph. */
export function readGraph(bytes: Uint8Array): Graph {
  let words: Record<string, any>;
  let columns: Map<string, Tensor>;
  try {
    const file = readTensors(bytes);
    columns = file.columns;
    words = JSON.parse(file.metadata["graph"] ?? "null");
  } catch (error) {
    throw new Problems([`This is no graph: ${(error as Error).message}.`]);
  }
  const missing = [...COLUMNS, ...(words?.["pruned"] ? PRUNED_COLUMNS : [])].filter((name) => !columns.has(name));
  if (!words || missing.length) {
    throw new Problems([words ? `The graph lacks ${missing.join(", ")}.` : "The file has no description of a graph."]);
  }
  const column = (name: string) => columns.get(name)!;
  const nodes = nodesOf(columns, "nodes");
  const graph: Graph = {
    nodes,
    edges: edgesOf(columns, "edges"),
    activations: column("activations") as Float64Array,
    totals: column("totals") as Float64Array,
    expanded: column("expanded") as Uint8Array,
    targetWeights: column("target_weights") as Float64Array,
    targetProbabilities: column("target_probabilities") as Float64Array,
    targetLabels: texts(words["target_labels"]),
    tokens: texts(words["tokens"]),
    conservationError: column("figures")[0],
    probeError: column("figures")[1],
    coverage: column("figures")[2],
    provenance: words["provenance"] ?? {},
    nLayers: Number(words["provenance"]?.["n_layers"] ?? 0),
    labels: new Map((words["labels"] ?? []).map(([layer, index, text]: [number, number, string]) => [`${layer}/${index}`, text])),
    pruned: words["pruned"] ? prunedOf(words["pruned"], columns) : null,
    names: [],
    rowOf: new Map(),
    firstTarget: firstOf(nodes, TARGET),
    nFeatures: firstOf(nodes, ERROR),
  };
  const problems = check(graph);
  if (problems.length) throw new Problems(problems.slice(0, 5));
  name(graph);
  return graph;
}

const COLUMNS = [
  "nodes.kind", "nodes.layer", "nodes.pos", "nodes.index", "edges.indptr", "edges.source", "edges.weight",
  "activations", "totals", "expanded", "target_weights", "target_probabilities", "figures",
];
const PRUNED_COLUMNS = [
  "pruned.cumulative", "pruned.lost.kind", "pruned.lost.layer", "pruned.lost.pos", "pruned.lost.index",
  "pruned.into.indptr", "pruned.into.source", "pruned.into.weight",
];

function texts(given: unknown): string[] {
  return Array.isArray(given) ? given.map(String) : [];
}

function nodesOf(columns: Map<string, Tensor>, prefix: string): Nodes {
  const column = (name: string) => columns.get(`${prefix}.${name}`)!;
  return {
    count: column("kind").length,
    kind: Uint8Array.from(column("kind")),
    layer: Int32Array.from(column("layer")),
    pos: Int32Array.from(column("pos")),
    index: Float64Array.from(column("index")),
  };
}

function edgesOf(columns: Map<string, Tensor>, prefix: string): Edges {
  return {
    bounds: Int32Array.from(columns.get(`${prefix}.indptr`)!),
    source: columns.get(`${prefix}.source`) as Int32Array,
    weight: columns.get(`${prefix}.weight`) as Float64Array,
  };
}

function prunedOf(words: Record<string, number>, columns: Map<string, Tensor>): Pruned {
  return {
    nodeThreshold: words["node_threshold"],
    edgeThreshold: words["edge_threshold"],
    nodesBefore: words["nodes_before"],
    edgesBefore: words["edges_before"],
    cumulative: columns.get("pruned.cumulative") as Float64Array,
    lost: nodesOf(columns, "pruned.lost"),
    into: edgesOf(columns, "pruned.into"),
  };
}

/** Kinds stand in order, so a kind begins at the first node that is not of a kind before it. */
function firstOf(nodes: Nodes, kind: number): number {
  const found = nodes.kind.findIndex((other) => other >= kind);
  return found < 0 ? nodes.count : found;
}

/** What breaks the laws of a graph, in words. */
export function check(graph: Graph): string[] {
  const { nodes, edges } = graph;
  const n = nodes.count;
  const problems: string[] = [];
  const perNode = { layer: nodes.layer, pos: nodes.pos, index: nodes.index, activations: graph.activations, totals: graph.totals, expanded: graph.expanded };
  for (const [what, column] of Object.entries(perNode)) {
    if (column.length !== n) problems.push(`There are ${n} nodes, but ${column.length} values of ${what}.`);
  }
  const nTargets = n - graph.firstTarget;
  if (!nTargets) problems.push("There is no target, so nothing is explained.");
  for (const [what, size] of [["labels", graph.targetLabels.length], ["weights", graph.targetWeights.length], ["probabilities", graph.targetProbabilities.length]] as const) {
    if (size !== nTargets) problems.push(`There are ${nTargets} targets, but ${size} ${what} of targets.`);
  }
  for (let row = 0; row < n && problems.length < 5; row++) {
    if (nodes.kind[row] > TARGET || (row && nodes.kind[row] < nodes.kind[row - 1])) problems.push(`Node ${row} is of kind ${nodes.kind[row]}, out of order.`);
    if (nodes.layer[row] < -1 || nodes.layer[row] > graph.nLayers) problems.push(`Node ${row} lies in layer ${nodes.layer[row]} of ${graph.nLayers}.`);
    if (nodes.pos[row] < -1 || nodes.pos[row] >= graph.tokens.length) problems.push(`Node ${row} lies at position ${nodes.pos[row]} of ${graph.tokens.length}.`);
  }
  return problems.length ? problems : checkEdges(edges, n, graph);
}

function checkEdges(edges: Edges, n: number, graph: Graph): string[] {
  const problems: string[] = [];
  if (edges.bounds.length !== n + 1 || edges.bounds[n] !== edges.source.length || edges.weight.length !== edges.source.length) {
    return [`The rows of the edges end at ${edges.bounds[edges.bounds.length - 1]} of ${edges.source.length}, for ${n} nodes.`];
  }
  for (let row = 0; row < n && problems.length < 5; row++) {
    for (let edge = edges.bounds[row]; edge < edges.bounds[row + 1] && problems.length < 5; edge++) {
      const source = edges.source[edge];
      if (source < 0 || source >= graph.firstTarget) problems.push(`Edge ${edge} starts at node ${source}, which feeds nothing.`);
      else if (row < graph.nFeatures && source < graph.nFeatures && graph.nodes.layer[source] >= graph.nodes.layer[row]) {
        problems.push(`Edge ${edge} leads from layer ${graph.nodes.layer[source]} to layer ${graph.nodes.layer[row]}; features feed higher layers only.`);
      }
      if (!Number.isFinite(edges.weight[edge])) problems.push(`Edge ${edge} weighs ${edges.weight[edge]}.`);
    }
  }
  return problems;
}

function name(graph: Graph): void {
  const seen = new Map<string, number>();
  for (let row = 0; row < graph.nodes.count; row++) {
    const plain = written(graph.nodes, row);
    const times = (seen.get(plain) ?? 0) + 1;
    seen.set(plain, times);
    const unique = times === 1 ? plain : `${plain}#${times}`;
    graph.names.push(unique);
    graph.rowOf.set(unique, row);
  }
}

/** A node as tl_circuits writes it: L20/15589@9, error L3@5, token@2, target 42@7. */
export function written(nodes: Nodes, row: number): string {
  const [kind, layer, pos, index] = [nodes.kind[row], nodes.layer[row], nodes.pos[row], nodes.index[row]];
  switch (kind) {
    case FEATURE:
      return `L${layer}/${index}@${pos}`;
    case TARGET:
      return index >= 0 ? `target ${index}@${pos}` : `target L${layer}@${pos}`;
    case TOKEN:
    case POSITION:
      return `${KINDS[kind]}@${pos}`;
    case B_DEC:
    case BIAS:
      return `${KINDS[kind]} L${layer}`;
    default:
      return `${KINDS[kind]} L${layer}@${pos}`;
  }
}

export function featureKey(graph: Graph, row: number): string {
  return `${graph.nodes.layer[row]}/${graph.nodes.index[row]}`;
}

/** What people call a node: a feature's label, a token, what a target is called; empty where there is none. */
export function labelOf(graph: Graph, labels: ReadonlyMap<string, string>, row: number): string {
  switch (graph.nodes.kind[row]) {
    case FEATURE:
      return labels.get(featureKey(graph, row)) ?? "";
    case TOKEN:
      return graph.tokens[graph.nodes.pos[row]];
    case TARGET:
      return graph.targetLabels[row - graph.firstTarget];
    default:
      return "";
  }
}

/** A token with its spaces and breaks made visible, so that nothing stands for an empty place. */
/** Control characters, marks that turn the direction of what follows, what has no width and joins nothing, and halves of characters. */
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;

export function visible(token: string): string {
  const shown = token.replace(/\n/g, "⏎").replace(/\r/g, "↵").replace(/\t/g, "⇥").replace(/[\u2028\u2029]/g, "⏎").replace(UNSEEN, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
  return shown.trim() === "" ? shown.replace(/ /g, "␣") || "∅" : shown;
}
