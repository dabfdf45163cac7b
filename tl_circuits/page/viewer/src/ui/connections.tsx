import { useSignal } from "@preact/signals";
import { KINDS } from "../graph/graph.ts";
import type { Link } from "../view/shown.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { called, count, percent, signed } from "./words.ts";

const FIRST = 14;

/** What feeds a node and what it feeds, the largest first. */
export function Connections({ row }: { row: number }) {
  const store = useStore();
  const { inputs, outputs, hidden } = store.linksOf(row);
  return (
    <>
      <div class="connections">
        <Links key={`in ${row}`} title="Inputs" links={inputs} end="source" />
        <Links key={`out ${row}`} title="Outputs" links={outputs} end="target" />
      </div>
      {hidden > 0 && <p class="note">{count(hidden, "edge")} of this node {hidden === 1 ? "is" : "are"} pruned or filtered away.</p>}
    </>
  );
}

function Links({ title, links, end }: { title: string; links: Link[]; end: "source" | "target" }) {
  const store = useStore();
  const { graph } = store;
  const most = useSignal(FIRST);
  const largest = Math.max(...links.slice(0, 1).map((link) => Math.abs(link.weight)), 1e-12);
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
                <code>{graph.names[other]}</code>
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
