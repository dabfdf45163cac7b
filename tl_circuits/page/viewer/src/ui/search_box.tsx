import { useSignal } from "@preact/signals";
import { useRef } from "preact/hooks";
import { FEATURE, KINDS } from "../graph/graph.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { groupRows, pinAll } from "./deeds.ts";
import { toGraph } from "./graph_pane.tsx";
import { called, count, percent, written } from "./words.ts";

const MOST = 50;

/** A box with a list under it: arrows move in the list, Enter selects, and all that was found can be pinned or grouped at once. */
export function SearchBox() {
  const store = useStore();
  const box = useRef<HTMLDivElement>(null);
  const open = useSignal(false);
  const active = useSignal(0);
  const onDisplay = new Set(store.rows.value);
  const found = [...store.found.value].sort((a, b) => Number(onDisplay.has(b)) - Number(onDisplay.has(a)));
  const shown = found.slice(0, MOST);
  const features = found.filter((row) => onDisplay.has(row) && store.graph.nodes.kind[row] === FEATURE);
  const showing = open.value && store.query.value.trim() !== "";
  const choose = (row: number | undefined) => {
    if (row === undefined) return;
    store.select(row);
    // Who looks at paths goes on doing so.
    if (store.pane.value !== "paths") store.pane.value = "node";
    leave();
  };
  const leave = () => {
    open.value = false;
    toGraph();
  };
  return (
    <div
      class="search"
      ref={box}
      onFocusOut={(event) => !box.current?.contains(event.relatedTarget as Node) && (open.value = false)}
      onKeyDown={(event) => {
        if (event.key !== "Escape") return;
        event.stopPropagation();
        if (store.query.value) store.query.value = "";
        else leave();
      }}
    >
      <input
        id="search"
        type="text"
        role="combobox"
        aria-expanded={showing}
        aria-controls="found"
        aria-autocomplete="list"
        aria-activedescendant={showing && shown.length ? `found-${active.value}` : undefined}
        aria-label="Search labels, tokens and node names"
        placeholder="Search words, L2/623   /"
        autocomplete="off"
        spellcheck={false}
        value={store.query.value}
        onFocus={() => (open.value = true)}
        onInput={(event) => {
          store.query.value = event.currentTarget.value;
          open.value = true;
          active.value = 0;
        }}
        onKeyDown={(event) => {
          const step = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
          if (step) {
            event.preventDefault();
            active.value = Math.max(0, Math.min(shown.length - 1, active.value + step));
            document.getElementById(`found-${active.value}`)?.scrollIntoView({ block: "nearest" });
          } else if (event.key === "Enter") choose(shown[active.value]);
        }}
      />
      {showing && (
        <div class="found">
          <div class="deeds">
            <span role="status">{found.length ? `${count(found.length, "node")} found, ${found.filter((row) => onDisplay.has(row)).length} on display` : "Nothing found."}</span>
            {features.length > 0 && (
              <>
                <Button quiet onClick={() => pinAll(store, features)} title="Pin every feature that was found and is on display">Pin {count(features.length, "feature")}</Button>
                <Button strong onClick={() => {
                  open.value = false;
                  groupRows(store, features, store.query.value.trim());
                }} title="Make one supernode of the features that were found and are on display">Group as supernode</Button>
              </>
            )}
          </div>
          <ul id="found" role="listbox" aria-label="Found nodes">
            {shown.map((row, at) => (
              <li
                key={row}
                id={`found-${at}`}
                role="option"
                class={onDisplay.has(row) ? "" : "hiddenrow"}
                aria-selected={at === active.value}
                onPointerDown={(event) => event.preventDefault()}
                onClick={() => choose(row)}
                onPointerEnter={() => (store.hovered.value = row)}
                onPointerLeave={() => (store.hovered.value = null)}
              >
                <span class={`glyph ${KINDS[store.graph.nodes.kind[row]]}`} aria-hidden="true" />
                <span class="name">{called(store.graph, store.labels.value, row)}</span>
                {!onDisplay.has(row) && <small>hidden</small>}
                <code>{written(store.graph, store.labels.value, row)}</code>
                <span class="figure">{percent(store.influence[row])}</span>
              </li>
            ))}
          </ul>
          {found.length > MOST && <p class="note">The first {MOST} of {found.length}.</p>}
        </div>
      )}
    </div>
  );
}
