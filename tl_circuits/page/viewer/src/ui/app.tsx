import { effect } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Pane, Store } from "../state/store.ts";
import { StoreContext, useStore } from "./context.ts";
import { Button } from "./button.tsx";
import { Chips } from "./chips.tsx";
import { Dialogs } from "./dialogs.tsx";
import { GraphPane } from "./graph_pane.tsx";
import { listen } from "./keys.ts";
import { NodePane } from "./node_pane.tsx";
import { PathsPane } from "./paths_pane.tsx";
import { DiffPane } from "./diff_pane.tsx";
import { RunsPane } from "./runs_pane.tsx";
import { Prompt } from "./prompt.tsx";
import { SubgraphPane } from "./subgraph_pane.tsx";
import { TablePane } from "./table_pane.tsx";
import { Toolbar } from "./toolbar.tsx";

/** Tabs of the pane at the side; on small screens all panes are tabs. */
function tabsOf(store: Store): [Pane, string, string][] {
  const found: [Pane, string, string][] = [["node", "Node", "Node"], ["paths", "Paths", "Paths"]];
  if (store.runs.value.length || store.page.acts) found.push(["runs", "Interventions", "Runs"]);
  if (store.page.diff) found.push(["diff", "Difference", "Diff"]);
  return found;
}

export function App({ store }: { store: Store }) {
  useEffect(() => listen(store), []);
  useEffect(() => passing(store), []);
  const pane = store.pane.value;
  const tabs = tabsOf(store);
  const tab = tabs.some(([name]) => name === pane) ? pane : "node";
  return (
    <StoreContext.Provider value={store}>
      <Prompt />
      <Toolbar />
      <main data-pane={pane}>
        <section class="pane main" aria-label={store.asTable.value ? "Table" : "Graph"}><Chips />{store.asTable.value ? <TablePane /> : <GraphPane />}</section>
        <div class="pane side">
          <div class="tabs" role="tablist" aria-label="Details">
            {tabs.map(([name, title]) => (
              <button type="button" role="tab" key={name} id={`tab-${name}`} aria-controls="details" aria-selected={tab === name} onClick={() => (store.pane.value = name)}>{title}</button>
            ))}
          </div>
          <div class="scroll" id="details" role="tabpanel" tabIndex={0} aria-labelledby={`tab-${tab}`}><Details tab={tab} /></div>
        </div>
        <div class="pane below"><SubgraphPane /></div>
      </main>
      <nav class="switch" aria-label="Panes">
        {([["graph", "", "Graph"], tabs[0], ["subgraph", "", "Subgraph"], ...tabs.slice(1)] as [Pane, string, string][]).map(([name, , title]) => (
          <button type="button" key={name} aria-current={pane === name ? "page" : undefined} onClick={() => (store.pane.value = name)}>{title}</button>
        ))}
      </nav>
      <div class="said" role="status" aria-live="polite">{store.said.value && <span key={store.said.value}>{store.said.value}</span>}</div>
      {store.notice.value && (
        <div class="notice" role="alert">
          <span>{store.notice.value}</span>
          <Button quiet label="Close this notice" onClick={() => (store.notice.value = "")}>✕</Button>
        </div>
      )}
      <Dialogs />
    </StoreContext.Provider>
  );
}

const SAID_MS = 5000;

/** What was said goes away by itself. */
function passing({ said, renaming }: Store): () => void {
  let timer = 0;
  return effect(() => {
    clearTimeout(timer);
    if (said.value && renaming.value === null) timer = window.setTimeout(() => (said.value = ""), SAID_MS);
  });
}

function Details({ tab }: { tab: Pane }) {
  const { page } = useStore();
  if (tab === "paths") return <PathsPane />;
  if (tab === "runs") return <RunsPane />;
  if (tab === "diff" && page.diff) return <DiffPane diff={page.diff} />;
  return <NodePane />;
}
