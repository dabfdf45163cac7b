// Whoever shows the page and keeps what is done on it: a notebook's kernel, or a server on this machine. Neither is asked
// unless the page was made for it.

import { effect } from "@preact/signals";
import type { Run } from "../state/page.ts";
import type { Store } from "../state/store.ts";
import { asWork } from "../state/work.ts";

const WAIT_MS = 300;

/** What a person asks of the kernel. */
export interface Ask {
  name: string;
  features: string[];
  scale: number;
}

export function connect(store: Store): void {
  if (store.page.host === "widget" && window.parent !== window) toKernel(store);
  if (store.page.host === "server") toServer(store);
}

/** The frame around the page passes on what it is told, and tells what the kernel says. */
export function ask(asked: Ask): void {
  tell({ ask: asked });
}

function tell(message: object): void {
  // A frame without an origin of its own cannot name the one it speaks to; the frame around it is all it can reach.
  window.parent.postMessage({ tl_circuits: 1, ...message }, "*");
}

function toKernel(store: Store): void {
  let heard = "";
  addEventListener("message", (event) => {
    const said = event.data as { tl_circuits?: number; work?: unknown; runs?: unknown; problem?: unknown } | null;
    if (event.source !== window.parent || said?.tl_circuits !== 1) return;
    if (said.work !== undefined) {
      const next = asWork(said.work, store.work.value);
      heard = JSON.stringify(next);
      if (heard !== JSON.stringify(store.work.value)) store.change(next);
    }
    if (Array.isArray(said.runs)) store.runs.value = said.runs as Run[];
    if (typeof said.problem === "string" && said.problem) store.say(said.problem);
  });
  whenDone(store, (work) => JSON.stringify(work) !== heard && tell({ work }));
  tell({ ready: true });
}

function toServer(store: Store): void {
  whenDone(store, async (work) => {
    try {
      const answer = await fetch(location.pathname, { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(work) });
      if (!answer.ok) store.say(`Not kept: ${await answer.text()}`);
    } catch (error) {
      store.say(`Not kept: ${(error as Error).message}`);
    }
  });
}

/** After each change, once it rests. */
function whenDone(store: Store, then: (work: unknown) => void): void {
  let timer = 0;
  let first = true;
  effect(() => {
    const work = store.work.value;
    if (first) {
      first = false;
      return;
    }
    clearTimeout(timer);
    timer = window.setTimeout(() => then(work), WAIT_MS);
  });
}
