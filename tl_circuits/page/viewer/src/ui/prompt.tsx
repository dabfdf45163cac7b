import { visible } from "../graph/graph.ts";
import { useStore } from "./context.ts";
import { percent } from "./words.ts";

/** The prompt, token by token (press one to see its nodes only), and what is explained. */
export function Prompt() {
  const store = useStore();
  const { graph } = store;
  const shown = store.positions.value;
  const chosen = new Set(store.work.value.positions);
  const toggle = (pos: number) => {
    const positions = new Set(chosen);
    if (!positions.delete(pos)) positions.add(pos);
    store.change({ ...store.work.value, positions: [...positions].sort((a, b) => a - b) });
  };
  return (
    <header class="prompt">
      <h1 class="hidden">Attribution graph{store.page.title ? `: ${visible(store.page.title)}` : ""}</h1>
      <div class="tokens" role="group" aria-label="Prompt: press a token to see only its nodes">
        {graph.tokens.map((token, pos) => (!shown || shown.has(pos)) && (
          <button type="button" key={pos} class={shown && pos > 0 && !shown.has(pos - 1) ? "after gap" : ""} aria-pressed={chosen.has(pos)} title={`Position ${pos}`} onClick={() => toggle(pos)}>
            {visible(token).trim() || visible(token)}
          </button>
        ))}
      </div>
      <span class="arrow" aria-hidden="true">→</span>
      <ul class="outputs" aria-label="Outputs that are explained">
        {graph.targetLabels.map((label, number) => (
          <li key={number}>
            <button type="button" title="Select this output" onClick={() => {
              store.select(graph.firstTarget + number);
              store.pane.value = "node";
            }}>
              <b>{visible(label).trim() || visible(label)}</b>
              {!Number.isNaN(graph.targetProbabilities[number]) && <small>{percent(graph.targetProbabilities[number])}</small>}
            </button>
          </li>
        ))}
      </ul>
    </header>
  );
}
