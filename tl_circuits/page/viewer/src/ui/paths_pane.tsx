import { strongest, type Path } from "../graph/paths.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { pinAll } from "./deeds.ts";
import { pathLinks } from "./graph_pane.tsx";
import { cone } from "../view/cone.ts";
import { called, count, percent, signed } from "./words.ts";
import type { Store } from "../state/store.ts";
import type { Link } from "../view/shown.ts";

const K = 5;

/** The strongest paths between two nodes; without a start, from wherever influence begins. */
export function PathsPane() {
  const store = useStore();
  const { from, to } = store;
  const paths = strongest(store.graph, store.merged.value, K, from.value, to.value);
  const leave = () => (pathLinks.value = null);
  return (
    <section class="paths" aria-label="Strongest paths" onPointerLeave={leave}>
      <div class="ends">
        <End title="From" end={from} anything="anywhere" />
        <End title="To" end={to} anything="the outputs" />
      </div>
      <div class="deeds">
        <Button disabled={store.selected.value === null} onClick={() => markCone(store, "source")} title="All that leads to the selected node among what is kept">Mark upstream</Button>
        <Button disabled={store.selected.value === null} onClick={() => markCone(store, "target")} title="All that the selected node leads to among what is kept">Mark downstream</Button>
      </div>
      <p class="note">Shares are of the influence in the graph at these sliders, as <code>{asPython(store)}</code> says; in the whole graph they are others.</p>
      {!paths.length && <p class="note">No path leads there among what is kept. Move the sliders up, or choose other ends.</p>}
      <ol class="pathlist">
        {paths.map((path, at) => (
          <li key={path.rows.join(" ")} onPointerEnter={() => (pathLinks.value = linksOf(store, path))} onFocusIn={() => (pathLinks.value = linksOf(store, path))} onFocusOut={leave}>
            <div class="steps">
              {path.rows.map((row, step) => (
                <span key={row}>
                  {step > 0 && <span class="soft" aria-hidden="true"> → </span>}
                  <button type="button" class="chip" title={store.graph.names[row]} onClick={() => store.select(row)}>{called(store.graph, store.labels.value, row)}</button>
                </span>
              ))}
            </div>
            <div class="figures">
              <span title="The part of the influence that takes this path">share {percent(path.share)}</span>
              <span class={path.effect < 0 ? "negative" : "positive"} title="Signed, in units of what the path ends in">{signed(path.effect)}</span>
              <Button quiet label={`Pin path ${at + 1}`} onClick={() => pinAll(store, path.rows)}>Pin</Button>
            </div>
          </li>
        ))}
      </ol>
    </section>
  );
}

/** The graph at these sliders, as Python has it. */
function asPython({ work, graph }: Store): string {
  const { nodes, edges, errors, constants } = work.value;
  if (graph.pruned && nodes === 1 && edges === 1 && !constants) return "graph.paths()";
  return `graph.prune(${nodes}, ${edges}${errors ? ", errors=True" : ""}${constants ? ", constants=True" : ""}).paths(${constants ? "constants=True" : ""})`;
}

/** Marks the selected node and all that leads to it, or that it leads to, over edges that are kept. */
function markCone(store: Store, end: "source" | "target"): void {
  const rows = cone(store.graph, store.cut.value, store.selected.value!, end);
  store.marked.value = new Set(rows);
  store.say(`${count(rows.length, "node")} marked; G groups them.`);
}

function End({ title, end, anything }: { title: string; end: { value: number | null }; anything: string }) {
  const store = useStore();
  const selected = store.selected.value;
  return (
    <div class="end">
      <span class="soft">{title}</span> <b>{end.value === null ? anything : called(store.graph, store.labels.value, end.value)}</b>
      <Button quiet disabled={selected === null || selected === end.value} onClick={() => (end.value = selected)} label={`${title}: use selected`}>use selected</Button>
      {end.value !== null && <Button quiet onClick={() => (end.value = null)} label={`${title}: ${anything}`}>✕</Button>}
    </div>
  );
}

function linksOf(store: Store, path: Path): Link[] {
  const { shares } = store.merged.value;
  const links: Link[] = [];
  for (let step = 0; step + 1 < path.rows.length; step++) {
    const [source, target] = [path.rows[step], path.rows[step + 1]];
    for (let edge = shares.edges.bounds[target]; edge < shares.edges.bounds[target + 1]; edge++) {
      if (shares.edges.source[edge] === source) links.push({ source, target, weight: shares.edges.weight[edge], share: 0.5, carried: 0 });
    }
  }
  return links;
}
