import { useSignal } from "@preact/signals";
import { visible } from "../graph/graph.ts";
import type { Change, Difference } from "../state/page.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { count, percent, plain, signed } from "./words.ts";

const FIRST = 12;

/** How another graph differs from this one: nodes that only one of them has, and what both weigh differently. */
export function DiffPane({ diff }: { diff: Difference }) {
  const store = useStore();
  const rowOf = (one: Change) => (one.here === null ? undefined : store.graph.rowOf.get(one.here));
  const here = diff.nodes.filter((one) => one.there === null);
  const rows = here.map(rowOf).filter((row) => row !== undefined);
  return (
    <section class="diff" aria-label="Difference">
      <p class="where">Beside “{visible(diff.title)}”: {count(diff.both, "node")} in both, {diff.only_here} only here, {diff.only_there} only there.</p>
      {rows.length > 0 && <Button onClick={() => {
        store.marked.value = new Set(rows);
        store.say(`${count(rows.length, "node")} marked; G groups them.`);
      }}>Mark what is only here</Button>}
      <Changes title="Only here" nodes={here} />
      <Changes title="Only there" nodes={diff.nodes.filter((one) => one.here === null)} />
      <Changes title="In both, of other influence" nodes={diff.nodes.filter((one) => one.here !== null && one.there !== null)} />
      <Edges diff={diff} />
    </section>
  );
}

function Changes({ title, nodes }: { title: string; nodes: Change[] }) {
  const store = useStore();
  const most = useSignal(FIRST);
  if (!nodes.length) return null;
  return (
    <div>
      <h3>{title}</h3>
      <ol class="links">
        {nodes.slice(0, most.value).map((one) => {
          const row = one.here === null ? undefined : store.graph.rowOf.get(one.here);
          const change = one.influence[1] - one.influence[0];
          const [before, after] = one.activation;
          const inside = (
            <>
              <span class="name">{one.label ? visible(one.label) : (one.here ?? one.there)}</span>
              <code>{one.here ?? one.there}</code>
              <span class="figure" title={before !== null && after !== null ? `activation ${plain(before)} → ${plain(after)}` : "influence here and there"}>{percent(one.influence[0])} → {percent(one.influence[1])}</span>
            </>
          );
          const tone = `link ${change < 0 ? "negative" : "positive"}`;
          return <li key={one.here ?? one.there}>{row === undefined ? <span class={tone}>{inside}</span> : <button type="button" class={tone} onClick={() => store.select(row)} onPointerEnter={() => (store.hovered.value = row)} onPointerLeave={() => (store.hovered.value = null)}>{inside}</button>}</li>;
        })}
      </ol>
      {nodes.length > most.value && <Button quiet onClick={() => (most.value += 4 * FIRST)}>Show more</Button>}
    </div>
  );
}

function Edges({ diff }: { diff: Difference }) {
  const most = useSignal(FIRST);
  if (!diff.edges.length) return null;
  return (
    <div>
      <h3>Edges of other weight</h3>
      <ol class="links">
        {diff.edges.slice(0, most.value).map(([source, target, here, there]) => (
          <li key={`${source} ${target}`}>
            <span class={`link ${there < here ? "negative" : "positive"}`}>
              <span class="name"><code>{source} → {target}</code></span>
              <span class="figure">{signed(here)} → {signed(there)}</span>
            </span>
          </li>
        ))}
      </ol>
      {diff.edges.length > most.value && <Button quiet onClick={() => (most.value += 4 * FIRST)}>Show more edges</Button>}
    </div>
  );
}
