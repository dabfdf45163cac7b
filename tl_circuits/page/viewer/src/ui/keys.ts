// Keys that work anywhere on the page, but not while somebody types.

import { FEATURE } from "../graph/graph.ts";
import type { Dialog, Store } from "../state/store.ts";
import { groupMarked, toggleMark, togglePin } from "./deeds.ts";
import { exposed } from "./graph_pane.tsx";
import { cycleTheme } from "./theme.ts";

const DIALOGS: Record<string, Dialog> = { "?": "help", e: "export", f: "filters", i: "provenance", l: "link" };

export function listen(store: Store): () => void {
  const onKey = (event: KeyboardEvent) => {
    const at = event.target as HTMLElement;
    const typing = at.matches?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select");
    if (event.defaultPrevented || event.altKey || typing || store.dialog.value) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const command = event.ctrlKey || event.metaKey;
    if (command ? commanded(store, key, event.shiftKey) : pressed(store, key)) event.preventDefault();
  };
  document.addEventListener("keydown", onKey);
  return () => document.removeEventListener("keydown", onKey);
}

function commanded(store: Store, key: string, shift: boolean): boolean {
  if (key === "z") shift ? store.redo() : store.undo();
  else if (key === "y") store.redo();
  else return false;
  return true;
}

function pressed(store: Store, key: string): boolean {
  const row = store.selected.value;
  if (key in DIALOGS) store.dialog.value = DIALOGS[key];
  else if (key === "/") document.querySelector<HTMLInputElement>("#search")?.select();
  else if (key === "p" && row !== null) togglePin(store, row);
  else if (key === "m" && row !== null) toggleMark(store, row);
  else if (key === "g") groupMarked(store);
  else if (key === "r" && row !== null && store.graph.nodes.kind[row] === FEATURE) document.querySelector<HTMLElement>(".node h2 button")?.click();
  else if (key === "s") {
    store.suggest();
    store.pane.value = "subgraph";
  } else if (key === "t") store.asTable.value = !store.asTable.value;
  else if (key === "d") cycleTheme();
  else if (key === "+" || key === "=") exposed.zoomBy(1.4);
  else if (key === "-") exposed.zoomBy(1 / 1.4);
  else if (key === "0") exposed.fit();
  else if (key === "Escape") {
    store.marked.value = new Set();
    store.select(null);
    store.query.value = "";
  } else return false;
  return true;
}
