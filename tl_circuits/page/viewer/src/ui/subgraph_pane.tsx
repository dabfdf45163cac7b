import { useComputed, useSignal } from "@preact/signals";
import { useLayoutEffect, useRef } from "preact/hooks";
import { visible } from "../graph/graph.ts";
import { amounts, curveOf, subgraph, type Box, type Tie } from "../view/subgraph.ts";
import { unpin } from "../state/work.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { dissolve, groupRows, pinTop, renameTo, toggleMark } from "./deeds.ts";
import { Suggestions } from "./suggestions.tsx";
import { percent } from "./words.ts";

/** The supernode whose box gets the focus once it is there: that which was named by keys. */
let named: string | null = null;

const ruler = typeof document === "undefined" ? null : document.createElement("canvas").getContext("2d");

function measure(text: string): number {
  if (!ruler) return 7 * text.length;
  ruler.font = "600 12.5px system-ui, sans-serif";
  return ruler.measureText(text).width;
}

/** What is pinned, as an SVG of boxes and the influence between them. */
export function SubgraphPane() {
  const store = useStore();
  const frame = useRef<HTMLDivElement>(null);
  const picture = useComputed(() => subgraph(store.graph, store.work.value, store.labels.value, store.shares, store.flow, measure));
  const focus = useSignal<string | null>(null);
  const { boxes, ties, width, height } = picture.value;
  const spots = useComputed(() => amounts(picture.value.boxes, picture.value.ties));
  const grown = useSignal(1);
  const groups = store.suggestions.value;
  if (!boxes.length) {
    return (
      <section class={groups ? "subgraph" : "subgraph empty"} aria-label="Subgraph">
        {groups ? <Suggestions groups={groups} /> : <Beginning />}
      </section>
    );
  }
  const marked = store.marked.value;
  return (
    <section class="subgraph" aria-label="Subgraph">
      <div class="deeds">
        <Button onClick={() => groupRows(store, [...marked], "supernode")} disabled={!marked.size} title="Make a supernode of what is marked (G)">Group {marked.size || ""} marked</Button>
        <Button onClick={store.suggest} title="Features that could be one supernode">Suggest groups</Button>
        <Button quiet onClick={() => store.change({ ...store.work.value, pins: [], supernodes: [] })}>Unpin all</Button>
        <span class="spacer" />
        <Button quiet label="Larger" onClick={() => (grown.value = Math.min(3, grown.value * 1.25))}>+</Button>
        <Button quiet label="Smaller" onClick={() => (grown.value = Math.max(0.4, grown.value / 1.25))}>−</Button>
      </div>
      {groups && <Suggestions groups={groups} />}
      <div class="scroll" ref={frame} tabIndex={0} role="region" aria-label="Picture of the subgraph">
        <svg
          id="subgraph"
          viewBox={`0 0 ${width} ${height}`}
          style={{ width: `${width * grown.value}px`, maxWidth: grown.value > 1 ? "none" : "100%", maxHeight: grown.value > 1 ? "none" : "100%" }}
          role="group"
          aria-label={`${boxes.length} boxes, ${ties.length} connections`}
        >
          {ties.map((tie) => <Curve key={`${tie.source.key}\n${tie.target.key}`} tie={tie} focus={focus.value} spot={spots.value.get(tie)} />)}
          {boxes.map((box) => <BoxView key={box.key} box={box} focus={focus} />)}
        </svg>
      </div>
    </section>
  );
}

/** Before anything is pinned: how it is done, and two ways to begin. */
function Beginning() {
  const store = useStore();
  return (
    <>
      <p>Pinned nodes and supernodes gather here. Pin a node with <kbd>P</kbd>, a click on <b>Pin</b>, or a long press.</p>
      <div class="deeds">
        <Button strong onClick={store.suggest}>Suggest groups</Button>
        <Button onClick={() => pinTop(store, 10)}>Pin the ten features that matter most</Button>
      </div>
    </>
  );
}

function Curve({ tie, focus, spot }: { tie: Tie; focus: string | null; spot: { x: number; y: number } | undefined }) {
  const [x0, y0, ax, ay, bx, by, x1, y1] = curveOf(tie);
  // All that is looked at is told; else what is strong and has room.
  const amount = focus === null ? spot : near(tie, focus) && Math.abs(tie.part) >= 0.01 ? (spot ?? { x: (x0 + x1) / 2, y: (y0 + y1) / 2 }) : undefined;
  const size = Math.abs(tie.part);
  return (
    <g class={`tie ${tie.part < 0 ? "negative" : "positive"}${near(tie, focus) ? "" : " far"}`}>
      <path d={`M${x0} ${y0}C${ax} ${ay} ${bx} ${by} ${x1} ${y1}`} fill="none" stroke="currentColor" stroke-width={0.8 + 9 * Math.sqrt(size)} stroke-opacity={0.25 + 0.6 * Math.min(1, size * 3)} stroke-dasharray={tie.part < 0 ? "6 4" : undefined}>
        <title>{`${visible(tie.source.label)} → ${visible(tie.target.label)}: ${tie.part < 0 ? "−" : "+"}${percent(size)} of its inputs`}</title>
      </path>
      {amount && (
        <text x={amount.x} y={amount.y} text-anchor="middle" dominant-baseline="central" font-size="11" class="amount">{`${tie.part < 0 ? "−" : "+"}${percent(size)}`}</text>
      )}
    </g>
  );
}

function near(tie: Tie, focus: string | null): boolean {
  return focus === null || tie.source.key === focus || tie.target.key === focus;
}

function BoxView({ box, focus }: { box: Box; focus: { value: string | null } }) {
  const store = useStore();
  const { graph } = store;
  const input = useRef<HTMLInputElement>(null);
  const button = useRef<SVGGElement>(null);
  const renaming = box.isSupernode && store.renaming.value === box.label;
  // At once: what is typed next belongs into the box.
  useLayoutEffect(() => {
    if (renaming) {
      input.current?.focus();
      input.current?.select();
    } else if (box.isSupernode && named === box.label) {
      named = null;
      button.current?.focus();
    }
  }, [renaming]);
  const pinned = store.work.value.pins.includes(graph.names[box.rows[0]]);
  const selected = store.selected.value !== null && box.rows.includes(store.selected.value);
  const marked = box.rows.every((row) => store.marked.value.has(row));
  const act = () => store.select(box.rows.reduce((best, row) => (store.influence[row] > store.influence[best] ? row : best)));
  const keys = (event: KeyboardEvent) => {
    if (event.key === "Enter" || event.key === " ") act();
    else if (event.key === "F2" && box.isSupernode) store.renaming.value = box.label;
    else if (event.key === "m") box.rows.forEach((row) => toggleMark(store, row));
    else if (event.key === "Delete" || event.key === "Backspace") box.isSupernode ? dissolve(store, box.label) : store.change(unpin(store.work.value, [graph.names[box.rows[0]]]));
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const kind = box.isSupernode ? "supernode" : pinned ? "pinned" : "guest";
  return (
    <g
      class={`box ${kind}${selected ? " selected" : ""}${marked ? " marked" : ""}`}
      transform={`translate(${box.x} ${box.y})`}
      onPointerEnter={() => (focus.value = box.key)}
      onPointerLeave={() => (focus.value = null)}
    >
      {box.isSupernode && <rect class="behind" x="4" y="-4" width={box.width} height={box.height} rx="8" />}
      <rect width={box.width} height={box.height} rx="8" />
      {renaming ? (
        <foreignObject x="3" y="3" width={box.width - 6} height={box.height - 6}>
          <input
            ref={input}
            class="rename"
            aria-label="Name of the supernode"
            defaultValue={box.label}
            onKeyDown={(event) => {
              event.stopPropagation();
              if (event.key === "Enter") named = renameTo(store, box.label, event.currentTarget.value);
              if (event.key === "Escape") named = renameTo(store, box.label, box.label);
            }}
            onBlur={(event) => store.renaming.value === box.label && renameTo(store, box.label, event.currentTarget.value)}
          />
        </foreignObject>
      ) : (
        <g
          ref={button}
          role="button"
          tabIndex={0}
          aria-label={box.isSupernode ? `Supernode ${visible(box.label)} of ${box.rows.length} nodes. F2 renames, Delete ungroups.` : `${visible(box.label)}, ${graph.names[box.rows[0]]}. M marks, Delete unpins.`}
          onKeyDown={keys}
          onFocus={() => (focus.value = box.key)}
          onBlur={() => (focus.value = null)}
          onClick={(event) => (event.shiftKey ? box.rows.forEach((row) => toggleMark(store, row)) : act())}
          onDblClick={() => box.isSupernode && (store.renaming.value = box.label)}
        >
          <rect class="target" width={box.width} height={box.height} rx="8" />
          <text x={box.width / 2} y={box.height / 2} text-anchor="middle" dominant-baseline="central" font-size="12.5">{box.text}</text>
          <title>{box.isSupernode ? `${visible(box.label)}: ${box.rows.map((row) => graph.names[row]).join(", ")}` : graph.names[box.rows[0]]}</title>
        </g>
      )}
      {kind !== "guest" && !renaming && (
        <g class="close" role="button" tabIndex={-1} aria-hidden="true" transform={`translate(${box.width - 2} 2)`} onClick={() => (box.isSupernode ? dissolve(store, box.label) : store.change(unpin(store.work.value, [graph.names[box.rows[0]]])))}>
          <circle r="8" />
          <path d="M-3-3 3 3M3-3-3 3" />
        </g>
      )}
    </g>
  );
}
