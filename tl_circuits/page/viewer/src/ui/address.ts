// The page's state in its address, both ways. A frame that may not touch its address goes without.

import { effect } from "@preact/signals";
import type { Graph } from "../graph/graph.ts";
import { claims, fingerprint, fromHash, toHash } from "../state/hash.ts";
import type { Store } from "../state/store.ts";
import { asWork, type Work } from "../state/work.ts";
import { count } from "./words.ts";

const WAIT_MS = 250;
let written = "";

export async function address(store: Store): Promise<string> {
  return location.href.split("#")[0] + (await toHash(state(store)));
}

export async function readAddress(store: Store): Promise<void> {
  if (location.hash === written) return;
  const found = (await fromHash(location.hash)) as { of?: unknown; work?: unknown; selected?: unknown; asTable?: unknown } | null;
  store.notice.value = "";
  if (!found || typeof found !== "object") {
    if (claims(location.hash)) store.notice.value = "This link is damaged, perhaps cut short: nothing of it could be read. Ask for it again, whole.";
    return;
  }
  const { work, missing, named } = known(store.graph, asWork(found.work, store.work.value));
  store.change(work);
  if (found.of !== undefined ? found.of !== graphOf(store) : missing > 0) {
    store.notice.value = `This link was made on another graph. ${named ? `Of the ${count(named, "node")} that it pins or groups, ${missing || "none"} ${missing === 1 ? "is" : "are"} missing here.` : "It pins and groups nothing."} Open it on the page that it was made on.`;
  }
  const row = store.graph.rowOf.get(String(found.selected));
  store.select(row ?? null);
  store.asTable.value = found.asTable === true;
}

/** The work without nodes that this graph does not hold, and how many of those that it names these are. */
function known(graph: Graph, work: Work): { work: Work; missing: number; named: number } {
  const named = new Set([...work.pins, ...work.supernodes.flatMap((one) => one.members)]);
  const holds = (name: string) => graph.rowOf.has(name);
  const missing = [...named].filter((name) => !holds(name)).length;
  if (!missing) return { work, missing, named: named.size };
  const supernodes = work.supernodes.map((one) => ({ ...one, members: one.members.filter(holds) })).filter((one) => one.members.length);
  return { work: { ...work, pins: work.pins.filter(holds), supernodes }, missing, named: named.size };
}

const fingerprints = new WeakMap<Graph, string>();

function graphOf({ graph }: Store): string {
  const found = fingerprints.get(graph) ?? fingerprint([...graph.tokens, ...graph.names]);
  fingerprints.set(graph, found);
  return found;
}

export function writeAddress(store: Store): void {
  let timer = 0;
  let first = true;
  effect(() => {
    const now = state(store);
    if (first) {
      first = false;
      return;
    }
    clearTimeout(timer);
    timer = window.setTimeout(async () => {
      written = await toHash(now);
      try {
        history.replaceState(null, "", written);
      } catch {
        // A document without an address of its own, such as a notebook's frame.
      }
    }, WAIT_MS);
  });
}

function state(store: Store): { of: string; work: unknown; selected: string | null; asTable: boolean } {
  const row = store.selected.value;
  return { of: graphOf(store), work: store.work.value, selected: row === null ? null : store.graph.names[row], asTable: store.asTable.value };
}
