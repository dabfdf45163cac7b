import type { Run } from "../state/page.ts";
import { AskForm } from "./ask_form.tsx";
import { useStore } from "./context.ts";
import { called, percent, plain } from "./words.ts";
import { visible } from "../graph/graph.ts";

/** Interventions that were recorded with the graph: what was done, and what became of the next token and of features. */
export function RunsPane() {
  const store = useStore();
  return (
    <section class="runs" aria-label="Interventions">
      {store.page.acts && <AskForm />}
      {store.runs.value.map((run, at) => <RunView key={at} run={run} />)}
    </section>
  );
}

function RunView({ run }: { run: Run }) {
  const store = useStore();
  const chance = (tokens: Run["before"], text: string) => tokens.find((token) => token.text === text)?.probability;
  const texts = [...new Set([...run.before, ...run.after].map((token) => token.text))];
  const all = texts.map((text) => ({ text, before: chance(run.before, text), after: chance(run.after, text) }));
  const rows = all.filter((row) => Math.max(row.before ?? 0, row.after ?? 0) >= 0.005);
  return (
    <article class="run">
      <h2>{visible(run.name)}</h2>
      <p class="where">{run.interventions.map(visible).join("; ")}. Mode {run.mode}, layers {run.layers.join(" to ")}{run.attention ? `, attention ${run.attention}` : ""}.</p>
      <table class="chances">
        <thead><tr><th scope="col">Next token</th><th scope="col">before</th><th scope="col">after</th></tr></thead>
        <tbody>
          {rows.map((row) => (
            <tr key={row.text}>
              <th scope="row">“{visible(row.text)}”</th>
              <Chance share={row.before} />
              <Chance share={row.after} />
            </tr>
          ))}
        </tbody>
      </table>
      {run.moved.length > 0 && <h3>What moved elsewhere</h3>}
      <ol class="links">
        {run.moved.map((move) => <Moved key={move.feature} {...move} />)}
      </ol>
      {run.continuation && <p class="where">Goes on: “{visible(run.continuation.before)}” → “{visible(run.continuation.after)}”</p>}
      <p class="note">{store.page.acts ? "Run by the kernel." : "Recorded when the page was written; nothing runs here."}</p>
    </article>
  );
}

/** A blank where the record does not say: a token that was not among the likeliest. */
function Chance({ share }: { share: number | undefined }) {
  return <td>{share === undefined ? <span class="soft">–</span> : <><span class="meter" aria-hidden="true"><i style={{ width: `${100 * share}%` }} /></span> <span class="figure">{percent(share)}</span></>}</td>;
}

function Moved({ feature, before, after }: Run["moved"][0]) {
  const store = useStore();
  const row = store.graph.rowOf.get(feature);
  const tone = after < before ? "negative" : "positive";
  const inside = (
    <>
      <span class="name">{row === undefined ? <span class="soft">not in the graph</span> : called(store.graph, store.labels.value, row)}</span>
      <code>{feature}</code>
      <span class="figure">{plain(before)} → {plain(after)}</span>
    </>
  );
  return <li>{row === undefined ? <span class={`link ${tone}`}>{inside}</span> : <button type="button" class={`link ${tone}`} onClick={() => store.select(row)}>{inside}</button>}</li>;
}
