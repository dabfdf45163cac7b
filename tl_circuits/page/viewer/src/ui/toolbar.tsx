import type { ComponentChildren } from "preact";
import { FEATURE } from "../graph/graph.ts";
import { MOST_LINKS, type Store } from "../state/store.ts";
import type { Work } from "../state/work.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { SearchBox } from "./search_box.tsx";
import { cycleTheme, theme } from "./theme.ts";
import { bounds, count, percent } from "./words.ts";

export function Toolbar() {
  const store = useStore();
  const work = store.work.value;
  const features = store.cut.value.nodes.reduce((sum, kept, row) => sum + (store.graph.nodes.kind[row] === FEATURE ? kept : 0), 0);
  return (
    <div class="toolbar" role="toolbar" aria-label="Graph tools">
      <SearchBox />
      <Slider name="nodes" title="Nodes" shows={count(features, "feature")} explains="Keep the fewest nodes that carry this share of all influence." />
      <Slider name="edges" title="Edges" shows={edges(store)} explains={`Keep the fewest edges that carry this share of the influence among those nodes. ${hiddenEdges(store)}`} />
      <Meters />
      <div class="buttons">
        <Button onClick={() => (store.dialog.value = "filters")} title="What is shown (F)" pressed={isFiltered(work)}>Filters</Button>
        <Button onClick={() => (store.asTable.value = !store.asTable.value)} pressed={store.asTable.value} title="The same nodes as a table (T)">Table</Button>
        <Button onClick={store.undo} disabled={!store.history.value.past.length} label="Undo" title="Undo (Ctrl+Z)"><Icon d="M8 4 4 8l4 4M4 8h8a5 5 0 0 1 0 10h-2" /></Button>
        <Button onClick={store.redo} disabled={!store.history.value.future.length} label="Redo" title="Redo (Ctrl+Shift+Z)"><Icon d="m12 4 4 4-4 4M16 8H8a5 5 0 0 0 0 10h2" /></Button>
        <Button onClick={() => (store.dialog.value = "link")} label="Link to this view" title="Link to this view (L)"><Icon d="M8 12l4-4M9 6l2-2a3.5 3.5 0 0 1 5 5l-2 2M11 14l-2 2a3.5 3.5 0 0 1-5-5l2-2" /></Button>
        <Button onClick={() => (store.dialog.value = "export")} title="Files: pictures, tables, labels, Python (E)">Export</Button>
        <Button onClick={() => (store.dialog.value = "provenance")} title="Where this graph comes from (I)">About</Button>
        <Button onClick={cycleTheme} label={`Colours: ${theme.value}`} title={`Colours: ${theme.value} (D)`}><Icon d="M10 3a7 7 0 1 0 0 14zM10 3a7 7 0 0 1 0 14" filled /></Button>
        <Button onClick={() => (store.dialog.value = "help")} label="Help" title="Help (?)">?</Button>
      </div>
    </div>
  );
}

function Icon({ d, filled }: { d: string; filled?: boolean }): ComponentChildren {
  return (
    <svg viewBox="0 0 20 20" width="18" height="18" aria-hidden="true" class={filled ? "icon filled" : "icon"}>
      <path d={d} />
    </svg>
  );
}

function edges({ nEdges, nShown }: Store): string {
  const kept = count(nEdges.value, "edge");
  return nShown.value === nEdges.value ? kept : `${kept}, ${nShown.value.toLocaleString("en")} on display`;
}

function hiddenEdges({ nEdges, nShown }: Store): string {
  const hidden = nEdges.value - nShown.value;
  const drawn = nShown.value > MOST_LINKS ? ` The strongest ${MOST_LINKS.toLocaleString("en")} on display are drawn.` : "";
  return (hidden ? `${count(hidden, "edge")} that ${hidden === 1 ? "is" : "are"} kept ${hidden === 1 ? "is" : "are"} not on display: constants, and what filters hide.` : "") + drawn;
}

function isFiltered(work: Work): boolean {
  return work.layers !== null || work.positions.length > 0 || work.density !== null || work.sign !== "both" || work.kinds.length !== 4;
}

function Slider({ name, title, shows, explains }: { name: "nodes" | "edges"; title: string; shows: string; explains: string }) {
  const store = useStore();
  const value = store.work.value[name];
  return (
    <label class="slider" title={explains}>
      <span>
        {title} <b>{percent(value)}</b> <small>{shows}</small>
      </span>
      <input
        type="range"
        min="0.1"
        max="1"
        step="0.01"
        value={value}
        aria-label={`${title}: share of influence kept`}
        aria-valuetext={`${percent(value)}, ${shows}`}
        onInput={(event) => store.change({ ...store.work.value, [name]: Number(event.currentTarget.value) }, name)}
      />
    </label>
  );
}

/** How much of the model's answer what is kept, and what is pinned, accounts for. */
function Meters() {
  const store = useStore();
  const scores = store.scores.value;
  const pinned = store.pinnedScores.value;
  const rows = [
    { name: "Replacement", now: scores.replacement, pins: pinned?.replacement, why: "Of the influence that ends in tokens or errors, the share that ends in tokens." },
    { name: "Completeness", now: scores.completeness, pins: pinned?.completeness, why: "The mean share of a node’s inputs that are no errors, weighted by influence." },
  ];
  return (
    <dl class="meters">
      {rows.map((row) => (
        <div key={row.name} title={`${row.why} What was pruned counts as error.`}>
          <dt>{row.name} <b data-score={row.name.toLowerCase()} data-value={row.now[0]}>{bounds(row.now)}</b></dt>
          <dd>
            <span class="meter"><i style={{ width: `${100 * (row.now[0] || 0)}%` }} /></span>
            <small>{row.pins ? `pins ${percent(row.pins[0])}` : ""}</small>
          </dd>
        </div>
      ))}
    </dl>
  );
}
