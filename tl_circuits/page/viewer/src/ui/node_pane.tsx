import { useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { ERROR, FEATURE, TARGET, TOKEN, featureKey, visible } from "../graph/graph.ts";
import { label } from "../state/work.ts";
import { Button } from "./button.tsx";
import { CardPane } from "./card_pane.tsx";
import { Connections } from "./connections.tsx";
import { useStore } from "./context.ts";
import { groupRows, toggleMark, togglePin } from "./deeds.ts";
import { called, percent, plain, where, written } from "./words.ts";

/** One node: what it is called, its figures, what it does to the logits, and its connections. */
export function NodePane() {
  const store = useStore();
  const row = store.selected.value;
  if (row === null) return <Empty />;
  const { graph } = store;
  const isFeature = graph.nodes.kind[row] === FEATURE;
  const card = isFeature ? store.page.cards[featureKey(graph, row)] : undefined;
  const pinned = store.work.value.pins.includes(graph.names[row]);
  return (
    <section class="node" aria-label="Selected node">
      {isFeature ? <Title key={row} row={row} /> : <h2>{called(graph, store.labels.value, row)}</h2>}
      <p class="where">{where(graph, row)}</p>
      <div class="deeds">
        <Button onClick={() => togglePin(store, row)} pressed={pinned} title="Pin to the subgraph (P)">{pinned ? "Pinned" : "Pin"}</Button>
        <Button onClick={() => toggleMark(store, row)} pressed={store.marked.value.has(row)} title="Mark for grouping (M)">Mark</Button>
        <Button onClick={() => groupRows(store, [...new Set([...store.marked.value, row])], called(graph, store.labels.value, row).slice(0, 40))} title="Make a supernode of what is marked and this (G)">Group</Button>
        <Button onClick={() => (store.pane.value = "paths")} title="Paths from and to this node">Paths</Button>
      </div>
      <Figures row={row} />
      {isFeature && <Elsewhere row={row} />}
      {card && <CardPane card={card} activation={graph.activations[row]} />}
      <Connections row={row} />
    </section>
  );
}

function Empty() {
  const store = useStore();
  const top = [...store.rows.value].filter((row) => store.graph.nodes.kind[row] === FEATURE).sort((a, b) => store.influence[b] - store.influence[a]).slice(0, 12);
  return (
    <section class="node" aria-label="Features that matter most">
      <h2>Features that matter most</h2>
      <p class="where">Select a node to see what feeds it and what it feeds.</p>
      <ol class="links">
        {top.map((row) => (
          <li key={row}>
            <button type="button" class="link" onClick={() => store.select(row)} onPointerEnter={() => (store.hovered.value = row)} onPointerLeave={() => (store.hovered.value = null)}>
              <span class="bar" style={{ width: `${100 * store.influence[row] / store.influence[top[0]]}%` }} aria-hidden="true" />
              <span class="name">{called(store.graph, store.labels.value, row)}</span>
              <code>{written(store.graph, store.labels.value, row)}</code>
              <span class="figure">{percent(store.influence[row])}</span>
            </button>
          </li>
        ))}
      </ol>
    </section>
  );
}

/** Labels of more characters are shown by their first lines. */
const LONG_LABEL = 200;

function Title({ row }: { row: number }) {
  const store = useStore();
  const editing = useSignal(false);
  const pencil = useRef<HTMLHeadingElement>(null);
  const former = useRef<Element | null>(null);
  const edit = () => {
    former.current = document.activeElement;
    editing.value = true;
  };
  // The focus goes back to where it came from: the graph, or the pencil.
  const done = () => {
    const back = former.current?.isConnected && former.current !== document.body ? (former.current as HTMLElement) : pencil.current?.querySelector("button");
    back?.focus();
  };
  const byKey = useRef(false);
  useLayoutEffect(() => {
    if (!editing.value && byKey.current) done();
    byKey.current = false;
  }, [editing.value]);
  const key = featureKey(store.graph, row);
  const said = store.labels.value.get(key) ?? "";
  const own = key in store.work.value.labels;
  const whole = useSignal(false);
  const isLong = said.length > LONG_LABEL;
  const keep = (text: string) => {
    editing.value = false;
    if (text !== said) store.change(label(store.work.value, key, text));
  };
  if (editing.value) {
    return (
      <input
        class="title"
        aria-label={`Label of feature L${key}`}
        ref={(element) => void (document.activeElement !== element && element?.focus())}
        defaultValue={said}
        onKeyDown={(event) => {
          event.stopPropagation();
          byKey.current = event.key === "Enter" || event.key === "Escape";
          // What has the focus next would be pressed by the same key.
          if (byKey.current) event.preventDefault();
          if (event.key === "Enter") keep(event.currentTarget.value);
          if (event.key === "Escape") editing.value = false;
        }}
        onBlur={(event) => editing.value && keep(event.currentTarget.value)}
      />
    );
  }
  return (
    <h2 ref={pencil}>
      {said ? <span class={isLong && !whole.value ? "clamped" : ""}>{visible(said)}</span> : <span class="soft">no label</span>}{" "}
      <Button quiet onClick={edit} label={said ? "Edit label" : "Add a label"} title="Edit label (R)">✎</Button>
      {own && <Button quiet onClick={() => store.change(label(store.work.value, key, null))} label="Take your label back" title="Take your label back">↺</Button>}
      {isLong && <Button quiet label={whole.value ? "Less of the label" : "More of the label"} onClick={() => (whole.value = !whole.value)}>{whole.value ? "less" : "more"}</Button>}
    </h2>
  );
}

function Figures({ row }: { row: number }) {
  const store = useStore();
  const { graph, shares } = store;
  const parts = { features: 0, errors: 0, tokens: 0 };
  for (let edge = graph.edges.bounds[row]; edge < graph.edges.bounds[row + 1]; edge++) {
    const kind = graph.nodes.kind[graph.edges.source[edge]];
    const part = Math.abs(graph.edges.weight[edge]) / (shares.denominator[row] || 1);
    if (kind === FEATURE) parts.features += part;
    if (kind === ERROR) parts.errors += part;
    if (kind === TOKEN) parts.tokens += part;
  }
  const rank = 1 + store.influence.reduce((sum, value) => sum + Number(value > store.influence[row]), 0);
  const figures: [string, string, string][] = graph.nodes.kind[row] === TARGET ? [["Weight", percent(store.flow[row]), "Its part of what is explained."]] : [["Influence", percent(store.influence[row]), `The share of the outputs’ weight that passes through this node. Number ${rank} of ${graph.nodes.count}.`]];
  if (!Number.isNaN(graph.activations[row])) figures.push([graph.nodes.kind[row] === FEATURE ? "Activation" : "Value", plain(graph.activations[row]), "On this prompt, at this position."]);
  if (!Number.isNaN(graph.totals[row])) figures.push(["Inputs sum to", plain(graph.totals[row]), "All inputs together, constants and what was pruned included."]);
  return (
    <>
      <dl class="figures">
        {figures.map(([name, value, why]) => (
          <div key={name} title={why}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {shares.denominator[row] > 0 && (
        <div class="parts" role="img" aria-label={`Of its inputs ${percent(parts.features)} are features, ${percent(parts.tokens)} tokens, ${percent(parts.errors)} errors`}>
          {(["features", "tokens", "errors"] as const).map((name) => parts[name] > 0 && <span key={name} class={name} style={{ flexGrow: parts[name] }}>{parts[name] > 0.14 ? `${name} ${percent(parts[name])}` : ""}</span>)}
        </div>
      )}
    </>
  );
}

/** The same feature at other positions. */
function Elsewhere({ row }: { row: number }) {
  const store = useStore();
  const { graph } = store;
  const key = featureKey(graph, row);
  const others: number[] = [];
  for (let other = 0; other < graph.nFeatures; other++) if (other !== row && featureKey(graph, other) === key) others.push(other);
  if (!others.length) return null;
  return (
    <p class="where">
      Also at{" "}
      {others.map((other) => (
        <button type="button" class="chip" key={other} onClick={() => store.select(other)}>“{visible(graph.tokens[graph.nodes.pos[other]])}” {percent(store.influence[other])}</button>
      ))}
    </p>
  );
}
