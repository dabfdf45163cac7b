// The page: it unpacks the graph that it carries, and shows it or says what is wrong with it.
// What is exported here is what tests compare with Python.

import { h, render } from "preact";
import { Problems, readGraph, visible } from "./graph/graph.ts";
import { fromBase64, through } from "./state/hash.ts";
import { asPage } from "./state/page.ts";
import { createStore, type Store } from "./state/store.ts";
import { readAddress, writeAddress } from "./ui/address.ts";
import { App } from "./ui/app.tsx";
import { connect } from "./ui/host.ts";
import { followSystem } from "./ui/theme.ts";
import "./style.css";

export { readGraph, check, visible, Problems } from "./graph/graph.ts";
export { countedSources, cumulative, nodeInfluence, sharesOf, targetShares } from "./graph/influence.ts";
export { chosen, prune } from "./graph/prune.ts";
export { errorShares, score } from "./graph/scores.ts";
export { withLossesAsErrors } from "./graph/losses.ts";
export { strongest } from "./graph/paths.ts";
export { origins, suggest } from "./graph/suggest.ts";
export { viewerJson } from "./files/viewer_json.ts";
export { labelsCsv, labelsJson, readLabels } from "./files/labels.ts";
export { readGroups } from "./files/read_work.ts";
export { python } from "./files/python.ts";
export { dot } from "./files/dot.ts";
export { csv } from "./files/tables.ts";
export { cone } from "./view/cone.ts";
export { fromHash, toHash } from "./state/hash.ts";
export { begin, redo, step, undo } from "./state/history.ts";
export { asWork, FRESH, group, rename, ungroup } from "./state/work.ts";
export { search } from "./view/search.ts";
export { linkAt } from "./view/hit.ts";
export { shownPositions } from "./view/shown.ts";
export { layOut } from "./view/layout.ts";
export { graphSvgText, subgraphSvgText } from "./ui/files.ts";
export { exposed } from "./ui/graph_pane.tsx";
export let store: Store | null = null;

async function block(id: string): Promise<Uint8Array<ArrayBuffer>> {
  const element = document.getElementById(id);
  const packed = fromBase64(element?.textContent?.trim() ?? "");
  element?.remove();
  return through(packed, new DecompressionStream("gzip"));
}

async function start(root: HTMLElement): Promise<void> {
  try {
    const [graph, page] = await Promise.all([block("graph-data"), block("page-data")]);
    store = createStore(readGraph(graph), asPage(JSON.parse(new TextDecoder().decode(page))));
  } catch (error) {
    complain(root, error instanceof Problems ? error.problems : [`The graph in this page cannot be unpacked: ${(error as Error).message}.`]);
    return;
  }
  await readAddress(store);
  writeAddress(store);
  connect(store);
  addEventListener("hashchange", () => void readAddress(store!));
  render(h(App, { store }), root);
  performance.mark("tl-circuits-rendered");
}

function complain(root: HTMLElement, problems: string[]): void {
  const title = document.createElement("h1");
  title.textContent = "This page holds no graph that can be shown";
  const list = document.createElement("ul");
  list.className = "problems";
  list.setAttribute("role", "alert");
  for (const problem of problems) {
    const item = document.createElement("li");
    item.textContent = visible(problem);
    list.append(item);
  }
  const advice = document.createElement("p");
  advice.textContent = "Write it anew: tlc.save_page(tlc.load_graph(\"….graph\"), \"….html\").";
  root.replaceChildren(title, list, advice);
}

if (typeof document !== "undefined") {
  const root = document.getElementById("page");
  if (root) {
    followSystem();
    void start(root);
  }
}
