// The page's state in its address, both ways. A frame that may not touch its address goes without.

import { effect } from "@preact/signals";
import { fromHash, toHash } from "../state/hash.ts";
import type { Store } from "../state/store.ts";
import { asWork } from "../state/work.ts";

const WAIT_MS = 250;
let written = "";

export async function address(store: Store): Promise<string> {
  return location.href.split("#")[0] + (await toHash(state(store)));
}

export async function readAddress(store: Store): Promise<void> {
  if (location.hash === written) return;
  const found = (await fromHash(location.hash)) as { work?: unknown; selected?: unknown; asTable?: unknown } | null;
  if (!found) return;
  store.change(asWork(found.work, store.work.value));
  const row = store.graph.rowOf.get(String(found.selected));
  store.select(row ?? null);
  store.asTable.value = found.asTable === true;
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

function state(store: Store): { work: unknown; selected: string | null; asTable: boolean } {
  const row = store.selected.value;
  return { work: store.work.value, selected: row === null ? null : store.graph.names[row], asTable: store.asTable.value };
}
