import { visible } from "../graph/graph.ts";
import { FAMILIES, type Work } from "../state/work.ts";
import { useStore } from "./context.ts";
import { count, percent } from "./words.ts";

/** What hides nodes or edges now: each chip says one thing, and takes it back. */
export function Chips() {
  const store = useStore();
  const work = store.work.value;
  const chips = active(work, store.graph.tokens);
  const shown = store.positions.value;
  if (!chips.length && !shown && !work.allTokens) return null;
  const total = store.graph.tokens.length;
  return (
    <div class="filters" role="group" aria-label="What hides nodes">
      {chips.map(([text, without]) => (
        <button type="button" class="chip" key={text} aria-label={`Take back: ${text}`} onClick={() => store.change(without)}>{text} <span aria-hidden="true">✕</span></button>
      ))}
      {shown && <button type="button" class="chip" onClick={() => store.change({ ...work, allTokens: true })}>{[...shown].filter((pos) => pos >= 0).length} of {count(total, "token")}: show all</button>}
      {work.allTokens && <button type="button" class="chip" onClick={() => store.change({ ...work, allTokens: false })}>All {count(total, "token")}: show those that matter most</button>}
    </div>
  );
}

function active(work: Work, tokens: readonly string[]): [string, Work][] {
  const found: [string, Work][] = [];
  const hidden = FAMILIES.filter((family) => family.name !== "constants" && !family.kinds.every((kind) => work.kinds.includes(kind)));
  for (const family of hidden) found.push([`no ${family.name}`, { ...work, kinds: [...new Set([...work.kinds, ...family.kinds])] }]);
  if (work.layers) found.push([`layers ${work.layers[0]} to ${work.layers[1]}`, { ...work, layers: null }]);
  for (const pos of work.positions) found.push([`at ${pos} “${visible(tokens[pos] ?? "")}”`, { ...work, positions: work.positions.filter((one) => one !== pos) }]);
  if (work.density !== null) found.push([`density at most ${percent(work.density)}`, { ...work, density: null }]);
  if (work.sign !== "both") found.push([`${work.sign} edges`, { ...work, sign: "both" }]);
  return found;
}
