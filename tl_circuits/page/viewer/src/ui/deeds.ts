// What a person can do to nodes, said aloud as it is done: called by buttons and by keys alike.

import { FEATURE } from "../graph/graph.ts";
import type { Suggestion } from "../graph/suggest.ts";
import { namesOf, type Store } from "../state/store.ts";
import { group, pin, rename, togglePins, ungroup } from "../state/work.ts";
import { called, count } from "./words.ts";

export function togglePin(store: Store, row: number): void {
  const pinned = store.work.value.pins.includes(store.graph.names[row]);
  store.change(togglePins(store.work.value, namesOf(store.graph, [row])));
  store.say(`${pinned ? "Unpinned" : "Pinned"} ${called(store.graph, store.labels.value, row)}.`);
}

export function pinAll(store: Store, rows: readonly number[]): void {
  store.change(pin(store.work.value, namesOf(store.graph, rows)));
  store.say(`Pinned ${count(rows.length, "node")}.`);
}

export function toggleMark(store: Store, row: number): void {
  const marked = new Set(store.marked.value);
  if (!marked.delete(row)) marked.add(row);
  store.marked.value = marked;
  store.say(`${count(marked.size, "node")} marked; G groups them.`);
}

/** A supernode of these rows, whose name is asked for at once. */
export function groupRows(store: Store, rows: readonly number[], name: string): void {
  if (!rows.length) {
    store.say("Mark nodes first: shift-click them, or press M on a node.");
    return;
  }
  const before = new Set(store.work.value.supernodes.map((one) => one.label));
  store.change(group(store.work.value, name, namesOf(store.graph, rows)));
  const made = store.work.value.supernodes.at(-1)!;
  store.marked.value = new Set();
  store.query.value = "";
  store.renaming.value = made.label;
  store.pane.value = "subgraph";
  store.say(`${count(rows.length, "node")} grouped as “${made.label}”${before.has(name) ? ", a name of its own" : ""}. Type its name and press Enter.`);
}

/** Makes supernodes of what was suggested, as one step. */
export function accept(store: Store, groups: readonly Suggestion[]): void {
  store.change(groups.reduce((work, one) => group(work, one.label, namesOf(store.graph, one.rows)), store.work.value));
  const left = (store.suggestions.value ?? []).filter((one) => !groups.includes(one));
  store.suggestions.value = left.length ? left : null;
  store.lit.value = [];
  store.say(groups.length === 1 ? `${count(groups[0].rows.length, "node")} grouped as “${store.work.value.supernodes.at(-1)!.label}”.` : `${groups.length} supernodes made.`);
}

export function groupMarked(store: Store): void {
  const { marked, selected } = store;
  groupRows(store, marked.value.size ? [...marked.value] : selected.value === null ? [] : [selected.value], "supernode");
}

/** What the supernode is called from now on. */
export function renameTo(store: Store, label: string, to: string): string {
  store.renaming.value = null;
  const at = store.work.value.supernodes.findIndex((one) => one.label === label);
  if (to.trim() && to.trim() !== label) store.change(rename(store.work.value, label, to.trim()));
  const now = store.work.value.supernodes[at]?.label ?? label;
  store.say(`Named “${now}”.`);
  return now;
}

export function dissolve(store: Store, label: string): void {
  store.change(ungroup(store.work.value, label));
  store.say(`“${label}” ungrouped; its nodes stay pinned.`);
}

export function pinTop(store: Store, most: number): void {
  const features = store.rows.value.filter((row) => store.graph.nodes.kind[row] === FEATURE);
  pinAll(store, features.sort((a, b) => store.influence[b] - store.influence[a]).slice(0, most));
}
