// Pins, supernodes and labels from a graph's JSON, as the page, circuit-tracer and Neuronpedia write them.

import { FEATURE, Problems, type Graph } from "../graph/graph.ts";
import { group, pin, type Work } from "../state/work.ts";
import { idsOf } from "./viewer_json.ts";

export interface Grouped {
  work: Work;
  pins: number;
  supernodes: number;
  /** Members that this graph does not hold. */
  missing: number;
}

/** Whether a text is such a file, and not one of labels. */
export function isViewerJson(given: string): boolean {
  try {
    return typeof JSON.parse(given)?.qParams === "object";
  } catch {
    return false;
  }
}

/** What was pinned and grouped there, on top of this work. Throws Problems for what can be neither. */
export function readGroups(graph: Graph, work: Work, given: string): Grouped {
  const file = JSON.parse(given);
  const view = file.qParams ?? {};
  const rowOf = new Map(idsOf(graph).map((id, row) => [id, row]));
  const named = nodeNames(file.nodes);
  let missing = 0;
  const rows = (members: readonly string[]) => {
    const found = members.map((member) => rowOf.get(named.get(member) ?? member)).filter((row) => row !== undefined);
    missing += members.length - found.length;
    return found.map((row) => graph.names[row]);
  };
  let next = pin(work, rows(listOf("pinnedIds", view.pinnedIds)));
  const pins = next.pins.length - work.pins.length;
  let supernodes = 0;
  for (const [label, ...members] of groupsOf(view.supernodes)) {
    const names = rows(members);
    if (!names.length) continue;
    next = group(next, label, names);
    supernodes++;
  }
  return { work: { ...next, labels: { ...next.labels, ...labelsOf(graph, rowOf, file.nodes) } }, pins, supernodes, missing };
}

/** Anthropic's viewer holds nodes by another name. */
function nodeNames(nodes: unknown): Map<string, string> {
  const found = new Map<string, string>();
  for (const node of Array.isArray(nodes) ? nodes : []) {
    if (typeof node?.jsNodeId === "string" && typeof node?.node_id === "string") found.set(node.jsNodeId, node.node_id);
  }
  return found;
}

function labelsOf(graph: Graph, rowOf: ReadonlyMap<string, number>, nodes: unknown): Record<string, string> {
  const found: Record<string, string> = {};
  for (const node of Array.isArray(nodes) ? nodes : []) {
    const row = rowOf.get(node?.node_id);
    if (row === undefined || graph.nodes.kind[row] !== FEATURE || typeof node.clerp !== "string" || !node.clerp.trim()) continue;
    const key = `${graph.nodes.layer[row]}/${graph.nodes.index[row]}`;
    if (graph.labels.get(key) !== node.clerp) found[key] = node.clerp;
  }
  return found;
}

/** circuit-tracer's Save button writes lists as text. */
function listOf(name: string, given: unknown): string[] {
  const found = typeof given === "string" ? given.split(",").filter(Boolean) : (given ?? []);
  if (!Array.isArray(found) || !found.every((one) => typeof one === "string")) throw new Problems([`${name} is ${said(given)}, not a list of nodes.`]);
  return found;
}

function groupsOf(given: unknown): string[][] {
  let found = given ?? [];
  try {
    if (typeof found === "string") found = found ? JSON.parse(found) : [];
  } catch {
    throw new Problems([`supernodes is ${said(given)}, which is no JSON.`]);
  }
  const wrong = (Array.isArray(found) ? found : [found]).filter((one) => !Array.isArray(one) || !one.every((part) => typeof part === "string"));
  if (!Array.isArray(found) || wrong.length) throw new Problems(wrong.slice(0, 5).map((one) => `A supernode is ${said(one)}, not ["label", "node", …].`));
  return found as string[][];
}

function said(value: unknown): string {
  return (JSON.stringify(value) ?? "nothing").slice(0, 60);
}
