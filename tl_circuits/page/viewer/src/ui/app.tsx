import { useEffect } from "preact/hooks";
import type { Pane, Store } from "../state/store.ts";
import { StoreContext } from "./context.ts";
import { Dialogs } from "./dialogs.tsx";
import { GraphPane } from "./graph_pane.tsx";
import { listen } from "./keys.ts";
import { NodePane } from "./node_pane.tsx";
import { PathsPane } from "./paths_pane.tsx";
import { Prompt } from "./prompt.tsx";
import { SubgraphPane } from "./subgraph_pane.tsx";
import { TablePane } from "./table_pane.tsx";
import { Toolbar } from "./toolbar.tsx";

const PANES: [Pane, string][] = [["graph", "Graph"], ["node", "Node"], ["subgraph", "Subgraph"], ["paths", "Paths"]];

export function App({ store }: { store: Store }) {
  useEffect(() => listen(store), []);
  const pane = store.pane.value;
  const onPaths = pane === "paths";
  return (
    <StoreContext.Provider value={store}>
      <Prompt />
      <Toolbar />
      <main data-pane={pane}>
        <section class="pane main" aria-label={store.asTable.value ? "Table" : "Graph"}>{store.asTable.value ? <TablePane /> : <GraphPane />}</section>
        <div class="pane side">
          <div class="tabs" role="tablist" aria-label="Details">
            <button type="button" role="tab" id="tab-node" aria-controls="details" aria-selected={!onPaths} onClick={() => (store.pane.value = "node")}>Node</button>
            <button type="button" role="tab" id="tab-paths" aria-controls="details" aria-selected={onPaths} onClick={() => (store.pane.value = "paths")}>Paths</button>
          </div>
          <div class="scroll" id="details" role="tabpanel" tabIndex={0} aria-labelledby={onPaths ? "tab-paths" : "tab-node"}>{onPaths ? <PathsPane /> : <NodePane />}</div>
        </div>
        <div class="pane below"><SubgraphPane /></div>
      </main>
      <nav class="switch" aria-label="Panes">
        {PANES.map(([name, title]) => (
          <button type="button" key={name} aria-current={pane === name ? "page" : undefined} onClick={() => (store.pane.value = name)}>{title}</button>
        ))}
      </nav>
      <div class="said" role="status" aria-live="polite">{store.said.value}</div>
      <Dialogs />
    </StoreContext.Provider>
  );
}
