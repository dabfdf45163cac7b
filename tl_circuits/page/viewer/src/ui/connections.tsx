import { useSignal } from "@preact/signals";
import { KINDS, type Graph } from "../graph/graph.ts";
import { levelOf } from "../view/layout.ts";
import type { Link } from "../view/shown.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { called, count, percent, signed, written } from "./words.ts";

const FIRST = 14;

type Order = "size" | "sign" | "place";
const ORDERS: [Order, string][] = [["size", "by size"], ["sign", "adding first"], ["place", "by layer and token"]];

/** What feeds a node and what it feeds, the largest first. */
export function Connections({ row }: { row: number }) {
  const store = useStore();
  const { inputs, outputs, hidden } = store.linksOf(row);
  const order = useSignal<Order>("size");
  return (
    <>
      <div class="connections">
        <label class="order">Connections <select aria-label="Order of connections" value={order.value} onChange={(event) => (order.value = event.currentTarget.value as Order)}>{ORDERS.map(([name, said]) => <option key={name} value={name}>{said}</option>)}</select></label>
        <Links key={`in ${row}`} title="Inputs" links={sorted(store.graph, inputs, "source", order.value)} end="source" />
        <Links key={`out ${row}`} title="Outputs" links={sorted(store.graph, outputs, "target", order.value)} end="target" />
      </div>
      {hidden > 0 && <p class="note">{count(hidden, "edge")} of this node {hidden === 1 ? "is" : "are"} pruned or filtered away.</p>}
    </>
  );
}

/** The links in another order; they come by size. */
function sorted(graph: Graph, links: Link[], end: "source" | "target", order: Order): Link[] {
  if (order === "size") return links;
  if (order === "sign") return [...links].sort((a, b) => b.weight - a.weight);
  const { layer, pos } = graph.nodes;
  return [...links].sort((a, b) => levelOf(graph, b[end]) - levelOf(graph, a[end]) || layer[b[end]] - layer[a[end]] || pos[a[end]] - pos[b[end]]);
}

function Links({ title, links, end }: { title: string; links: Link[]; end: "source" | "target" }) {
  const store = useStore();
  const { graph } = store;
  const most = useSignal(FIRST);
  const largest = links.reduce((most, link) => Math.max(most, Math.abs(link.weight)), 1e-12);
  const counted = (link: Link) => store.shares.counted[link.source];
  return (
    <div>
      <h3>{title} <small>{links.length || "none"}</small></h3>
      <ol class="links">
        {links.slice(0, most.value).map((link) => {
          const other = link[end];
          const tone = link.weight < 0 ? "negative" : "positive";
          return (
            <li key={other}>
              <button
                type="button"
                class={`link ${tone}`}
                onClick={() => store.select(other)}
                onPointerEnter={() => (store.hovered.value = other)}
                onPointerLeave={() => (store.hovered.value = null)}
                title={`${graph.names[link.source]} adds ${signed(link.weight)} to ${graph.names[link.target]}${counted(link) ? `: ${percent(link.share)} of its inputs` : ", a constant"}`}
              >
                <span class="bar" style={{ width: `${(100 * Math.abs(link.weight)) / largest}%` }} aria-hidden="true" />
                <span class={`glyph ${KINDS[graph.nodes.kind[other]]}`} aria-hidden="true" />
                <span class="name">{called(graph, store.labels.value, other)}</span>
                <code>{written(graph, store.labels.value, other)}</code>
                <span class="figure">{signed(link.weight)}</span>
                <span class="figure part">{counted(link) ? percent(link.share) : "const."}</span>
              </button>
            </li>
          );
        })}
      </ol>
      {links.length > most.value && <Button quiet onClick={() => (most.value += 4 * FIRST)}>Show more</Button>}
    </div>
  );
}
