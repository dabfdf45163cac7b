import { useSignal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { visible } from "../graph/graph.ts";
import { cell, COLUMNS, sortRows, type Column, type Order } from "../view/rows.ts";
import { useStore } from "./context.ts";
import { toggleMark, togglePin } from "./deeds.ts";
import { percent, plain } from "./words.ts";

const HIGH = 30;
const SPARE = 8;

/** The same nodes as rows: sortable, and the way through the graph for keys and screen readers. Only what is in sight is in the page. */
export function TablePane() {
  const store = useStore();
  const { graph } = store;
  const order = useSignal<Order>({ column: "influence", descending: true });
  const top = useSignal(0);
  const active = useSignal(0);
  const body = useRef<HTMLDivElement>(null);
  const rows = sortRows(graph, store.labels.value, store.influence, store.rows.value, order.value);
  const first = Math.max(0, Math.floor(top.value / HIGH) - SPARE);
  const shown = rows.slice(first, first + 60 + SPARE);
  const go = (to: number) => {
    const next = Math.max(0, Math.min(rows.length - 1, to));
    active.value = next;
    const box = body.current!;
    if (next * HIGH < box.scrollTop) box.scrollTop = next * HIGH;
    else if ((next + 2) * HIGH > box.scrollTop + box.clientHeight - HIGH) box.scrollTop = (next + 2) * HIGH - box.clientHeight + HIGH;
    requestAnimationFrame(() => box.querySelector<HTMLElement>(`[data-at="${next}"]`)?.focus());
  };
  useEffect(() => {
    const place = rows.indexOf(store.selected.value ?? -1);
    if (place < 0) return;
    if (body.current!.contains(document.activeElement)) go(place);
    else active.value = place;
  }, [store.selected.value]);
  const keys = (event: KeyboardEvent) => {
    const row = rows[active.value];
    const steps: Record<string, number> = { ArrowDown: active.value + 1, ArrowUp: active.value - 1, PageDown: active.value + 12, PageUp: active.value - 12, Home: 0, End: rows.length - 1 };
    if (event.key in steps) go(steps[event.key]);
    else if (event.key === "Enter" || event.key === " ") store.select(row);
    else if (event.key === "p") togglePin(store, row);
    else if (event.key === "m") toggleMark(store, row);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="table" ref={body} onScroll={(event) => (top.value = event.currentTarget.scrollTop)} onKeyDown={(event) => (event.target as HTMLElement).dataset["at"] !== undefined && keys(event)}>
      <table aria-rowcount={rows.length + 1} aria-label="Nodes on display">
        <thead>
          <tr>
            <th scope="col"><span class="hidden">Pinned</span></th>
            {COLUMNS.map((column) => <Head key={column} column={column} order={order} />)}
          </tr>
        </thead>
        <tbody>
          {first > 0 && <tr aria-hidden="true" style={{ height: `${first * HIGH}px` }}><td colSpan={COLUMNS.length + 1} /></tr>}
          {shown.map((row, offset) => {
            const place = first + offset;
            const pinned = store.work.value.pins.includes(graph.names[row]);
            return (
              <tr
                key={row}
                data-at={place}
                aria-rowindex={place + 2}
                aria-selected={row === store.selected.value}
                tabIndex={place === active.value ? 0 : -1}
                class={store.found.value.includes(row) ? "isfound" : ""}
                onFocus={() => (active.value = place)}
                onClick={(event) => (event.shiftKey ? toggleMark(store, row) : store.select(row))}
                onPointerEnter={() => (store.hovered.value = row)}
                onPointerLeave={() => (store.hovered.value = null)}
              >
                <td>{pinned ? "●" : store.marked.value.has(row) ? "◌" : ""}{pinned && <span class="hidden">pinned</span>}</td>
                {COLUMNS.map((column) => <td key={column} class={column}>{shownCell(store, row, column)}</td>)}
              </tr>
            );
          })}
          {first + shown.length < rows.length && <tr aria-hidden="true" style={{ height: `${(rows.length - first - shown.length) * HIGH}px` }}><td colSpan={COLUMNS.length + 1} /></tr>}
        </tbody>
      </table>
    </div>
  );
}

function Head({ column, order }: { column: Column; order: { value: Order } }) {
  const sorted = order.value.column === column;
  const down = sorted ? order.value.descending : false;
  return (
    <th scope="col" class={column} aria-sort={sorted ? (down ? "descending" : "ascending") : "none"}>
      <button type="button" onClick={() => (order.value = { column, descending: sorted ? !down : column === "influence" || column === "activation" })}>
        {column} <span aria-hidden="true">{sorted ? (down ? "↓" : "↑") : ""}</span>
      </button>
    </th>
  );
}

function shownCell(store: ReturnType<typeof useStore>, row: number, column: Column): string {
  const value = cell(store.graph, store.labels.value, store.influence, row, column);
  if (column === "token") return Number(value) < 0 ? "" : `${value} ${visible(store.graph.tokens[Number(value)])}`;
  if (column === "layer") return Number(value) < 0 ? "" : String(value);
  if (column === "influence") return percent(Number(value));
  if (column === "activation") return Number.isNaN(value) ? "" : plain(Number(value));
  return column === "label" ? visible(String(value) || " ").replace("␣", "") : String(value);
}
