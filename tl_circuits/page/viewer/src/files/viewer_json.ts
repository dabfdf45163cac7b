// What is on display as the JSON that Neuronpedia's and circuit-tracer's viewers read, as AttributionGraph.to_json writes it.

import { ERROR, FEATURE, KINDS, TARGET, TOKEN, labelOf, type Graph } from "../graph/graph.ts";
import { countedSources, cumulative, nodeInfluence, sharesOf, targetShares } from "../graph/influence.ts";
import { isConstant, type Cut } from "../graph/prune.ts";
import { score } from "../graph/scores.ts";
import type { Work } from "../state/work.ts";

const FIRST_VIRTUAL = 1e9;

export function viewerJson(graph: Graph, work: Work, labels: ReadonlyMap<string, string>, cut: Cut, version: string): string {
  const rows = [...graph.nodes.kind.keys()].filter((row) => cut.nodes[row] && !isConstant(graph.nodes.kind[row]));
  const ids = idsOf(graph);
  return JSON.stringify({
    metadata: metadata(graph, work, cut, version, ids, rows.filter((row) => graph.nodes.kind[row] === FEATURE && !graph.expanded[row]).map((row) => ids[row])),
    qParams: viewState(graph, work, ids, new Set(rows)),
    nodes: nodesOf(graph, work, labels, rows, ids),
    links: linksOf(graph, cut, ids, new Set(rows)),
  });
}

/** How viewers name the nodes. */
export function idsOf(graph: Graph): string[] {
  return graph.names.map((_, row) => idOf(graph, row));
}

/** Cantor's pairing of layer and index. */
export function cantor(layer: number, index: number): number {
  return ((layer + index) * (layer + index + 1)) / 2 + index;
}

function idOf(graph: Graph, row: number): string {
  const { kind, layer, pos, index } = graph.nodes;
  switch (kind[row]) {
    case FEATURE:
      return `${layer[row]}_${index[row]}_${pos[row]}`;
    case ERROR:
      return `${layer[row]}_-1_${pos[row]}`;
    case TOKEN:
      return `E_${index[row]}_${pos[row]}`;
    case TARGET:
      return `${graph.nLayers + 1}_${targetNumber(graph, row)}_${pos[row]}`;
    default:
      return `${layer[row] < 0 ? "E" : layer[row]}_bias_${KINDS[kind[row]]}_${Math.max(pos[row], 0)}`;
  }
}

function targetNumber(graph: Graph, row: number): number {
  const { index, pos } = graph.nodes;
  let repeated = false;
  for (let other = graph.firstTarget; other < row; other++) repeated ||= index[other] === index[row] && pos[other] === pos[row];
  return index[row] >= 0 && !repeated ? index[row] : FIRST_VIRTUAL + row - graph.firstTarget;
}

function nodesOf(graph: Graph, work: Work, labels: ReadonlyMap<string, string>, rows: number[], ids: string[]): unknown[] {
  const places = cumulative(nodeInfluence(sharesOf(graph.edges, countedSources(graph.nodes, work.constants)), graph, targetShares(graph)));
  return rows.map((row) => ({
    node_id: ids[row],
    jsNodeId: ids[row],
    ctx_idx: Math.max(graph.nodes.pos[row], 0),
    run_idx: 0,
    reverse_ctx_idx: 0,
    influence: Math.min(places[row], 1),
    activation: Number.isNaN(graph.activations[row]) ? null : graph.activations[row],
    token_prob: row >= graph.firstTarget ? chance(graph, row) : 0,
    is_target_logit: row === graph.firstTarget,
    ...whatItIs(graph, labels, row),
  }));
}

function chance(graph: Graph, row: number): number {
  const own = graph.targetProbabilities[row - graph.firstTarget];
  return Number.isNaN(own) ? targetShares(graph)[row] : own;
}

function whatItIs(graph: Graph, labels: ReadonlyMap<string, string>, row: number): Record<string, unknown> {
  const { kind, layer, pos, index } = graph.nodes;
  const label = labelOf(graph, labels, row);
  const typed = (feature_type: string, at: string, feature: number | null, clerp: string) => ({ feature_type, layer: at, feature, clerp });
  switch (kind[row]) {
    case FEATURE:
      return typed("cross layer transcoder", String(layer[row]), cantor(layer[row], index[row]), label);
    case ERROR:
      return typed("mlp reconstruction error", String(layer[row]), -1, `Error of layer ${layer[row]} at “${plain(graph.tokens[pos[row]])}”`);
    case TOKEN:
      return { ...typed("embedding", "E", pos[row], `Token “${plain(label)}”`), token: label };
    default:
      return { ...typed("logit", String(graph.nLayers + 1), targetNumber(graph, row), `Output "${plain(label)}" (p=${chance(graph, row).toFixed(3)})`), token: label };
  }
}

/** Readers take the token from between the first two quotes, and split at "(p=". */
function plain(token: string): string {
  return token.replace(/"/g, "”").replace(/'/g, "’").replace(/\n/g, "⏎").replace(/\r/g, "↵").replace(/\(p=/g, "(p =");
}

function linksOf(graph: Graph, cut: Cut, ids: string[], shown: Set<number>): unknown[] {
  const { bounds, source, weight } = graph.edges;
  const links: unknown[] = [];
  for (let row = 0; row < graph.nodes.count; row++) {
    if (!shown.has(row)) continue;
    for (let edge = bounds[row]; edge < bounds[row + 1]; edge++) {
      if (cut.edges[edge] && shown.has(source[edge])) links.push({ source: ids[source[edge]], target: ids[row], weight: weight[edge] });
    }
  }
  return links;
}

function viewState(graph: Graph, work: Work, ids: string[], shown: Set<number>): unknown {
  const present = (names: readonly string[]) => names.map((name) => graph.rowOf.get(name)).filter((row) => row !== undefined && shown.has(row)).map((row) => ids[row!]);
  const groups = work.supernodes.map((one) => [one.label, ...present(one.members)]);
  return { linkType: "both", pinnedIds: present(work.pins), supernodes: groups.filter((one) => one.length > 1) };
}

function metadata(graph: Graph, work: Work, cut: Cut, version: string, ids: string[], unexpanded: string[]): unknown {
  const { provenance } = graph;
  const prompt = String(provenance["prompt"] ?? "") || graph.tokens.join("");
  const scores = score(graph, cut, false);
  const orNull = (value: number) => (Number.isNaN(value) ? null : value);
  return {
    slug: (String(provenance["prompt"] ?? "").match(/[a-zA-Z0-9_.-]+/g) ?? []).join("-").slice(0, 60).replace(/^-+|-+$/g, "") || "graph",
    scan: provenance["transcoder"] ?? "",
    schema_version: 1,
    prompt,
    prompt_tokens: graph.tokens,
    transcoder_list: [],
    node_threshold: work.nodes,
    info: { generator: { name: "tl_circuits", version, url: "" } },
    generation_settings: provenance["settings"] ?? {},
    pruning_settings: { node_threshold: work.nodes, edge_threshold: work.edges },
    tl_circuits: {
      version,
      replacement: orNull(scores.replacement[0]),
      completeness: orNull(scores.completeness[0]),
      completeness_circuit_tracer: orNull(scores.completenessCircuitTracer[0]),
      conservation_error: orNull(graph.conservationError),
      probe_error: orNull(graph.probeError),
      coverage: graph.coverage,
      scores_note: note(graph, cut),
      constants_left_out: [...graph.nodes.kind.keys()].filter((row) => cut.nodes[row] && isConstant(graph.nodes.kind[row])).length,
      provenance,
      target_nodes: ids.slice(graph.firstTarget),
      target_weights: [...graph.targetWeights],
      target_tokens: [...graph.nodes.index.slice(graph.firstTarget)],
      target_probabilities: [...graph.targetProbabilities].map(orNull),
      unexpanded,
    },
  };
}

function note(graph: Graph, cut: Cut): string {
  const partial = graph.nodes.kind.some((kind, row) => kind === FEATURE && cut.nodes[row] && !graph.expanded[row]);
  return [
    ...(graph.targetWeights.some((weight) => weight < 0) ? ["targets of negative weight count by its size"] : []),
    ...(partial ? [`partial graph, coverage ${graph.coverage.toFixed(3)}`] : []),
    "what was pruned counts as error",
  ].join("; ");
}

