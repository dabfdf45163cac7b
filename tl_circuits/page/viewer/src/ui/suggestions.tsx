import { visible } from "../graph/graph.ts";
import type { Suggestion } from "../graph/suggest.ts";
import type { Store } from "../state/store.ts";
import { short } from "../view/subgraph.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { accept } from "./deeds.ts";
import { called, count, percent } from "./words.ts";

const SHOWN = 4;

/** Groups that could be supernodes: each is lit in the graph while it is looked at, and made when it is accepted. */
export function Suggestions({ groups }: { groups: readonly Suggestion[] }) {
  const store = useStore();
  const close = () => {
    store.lit.value = [];
    store.suggestions.value = null;
  };
  return (
    <section class="suggestions" aria-label="Suggested supernodes">
      <div class="deeds">
        <h3>Suggested supernodes</h3>
        <span class="spacer" />
        {groups.length > 1 && <Button quiet onClick={() => accept(store, groups)}>Accept all</Button>}
        <Button quiet onClick={close} label="Close suggestions">✕</Button>
      </div>
      {!groups.length && <p class="note">No features on display are alike enough. Move the sliders up, or mark nodes and group them.</p>}
      <ol>
        {groups.map((group) => <Row key={group.rows.join(" ")} group={group} />)}
      </ol>
      <p class="note">Features at one token whose value comes from the same tokens. Whether they mean one thing, their cards say.</p>
    </section>
  );
}

function Row({ group }: { group: Suggestion }) {
  const store = useStore();
  const look = () => (store.lit.value = group.rows);
  const leave = () => (store.lit.value = []);
  return (
    <li onPointerEnter={look} onPointerLeave={leave} onFocusIn={look} onFocusOut={leave}>
      <div class="what">
        <b>{visible(group.label)}</b>{" "}
        <small>{count(group.rows.length, "feature")} at “{visible(store.graph.tokens[store.graph.nodes.pos[group.rows[0]]])}”, influence {percent(influenceOf(store, group))}</small>
        <span class="members">{members(store, group)}</span>
      </div>
      <Button onClick={() => accept(store, [group])} label={`Accept ${visible(group.label)}`}>Accept</Button>
    </li>
  );
}

function influenceOf(store: Store, group: Suggestion): number {
  return group.rows.reduce((sum, row) => sum + store.influence[row], 0);
}

function members(store: Store, group: Suggestion): string {
  const order = [...group.rows].sort((a, b) => store.influence[b] - store.influence[a]);
  const said = order.slice(0, SHOWN).map((row) => short(called(store.graph, store.labels.value, row), 30));
  return said.join(" · ") + (order.length > SHOWN ? ` and ${order.length - SHOWN} more` : "");
}
