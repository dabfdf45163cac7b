// Token by layer, on three canvases: the ground, the links, and in front what moves with the pointer.

import { computed, effect, signal, useComputed, useSignal } from "@preact/signals";
import { quadtree } from "d3-quadtree";
import { select } from "d3-selection";
import { zoom, zoomIdentity, type ZoomTransform } from "d3-zoom";
import { useEffect, useRef } from "preact/hooks";
import { FEATURE } from "../graph/graph.ts";
import type { Store } from "../state/store.ts";
import { linkAt } from "../view/hit.ts";
import { layOut } from "../view/layout.ts";
import type { Link } from "../view/shown.ts";
import { neighbour, type Direction } from "../view/walk.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { toggleMark, togglePin } from "./deeds.ts";
import { AXIS, FOOT, at, drawBack, drawBands, drawFront, drawMap, mapOf, type Scene } from "./draw.ts";
import { Legend } from "./legend.tsx";
import { palette } from "./palette.ts";
import { called, percent, plain, signed, where } from "./words.ts";

/** Grows whenever the colours change. */
export const repaint = signal(0);
const colours = computed(() => {
  void repaint.value;
  return palette();
});

const REACH = 14;
/** How near to a link the pointer has to be, in pixels. */
const NEAR = 5;
const LONG_PRESS_MS = 500;

const ARROWS: Record<string, Direction> = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };

export function GraphPane() {
  const store = useStore();
  const frame = useRef<HTMLDivElement>(null);
  const ground = useRef<HTMLCanvasElement>(null);
  const back = useRef<HTMLCanvasElement>(null);
  const front = useRef<HTMLCanvasElement>(null);
  const size = useSignal({ width: 800, height: 480 });
  const view = useSignal({ k: 1, x: AXIS, y: 0 });
  const layout = useComputed(() => layOut(store.graph, store.rows.value, store.influence, size.value.width - AXIS - 12, size.value.height - FOOT - 4));
  const scene = useComputed(() => sceneOf(store, layout.value, view.value, size.value));
  const hits = useComputed(() => quadtree(store.rows.value.filter((row) => !Number.isNaN(layout.value.x[row])), (row) => layout.value.x[row], (row) => layout.value.y[row]));
  const behaviour = useRef(zoom<HTMLCanvasElement, unknown>());

  useEffect(() => {
    const watcher = new ResizeObserver(([entry]) => {
      const { width, height } = entry.contentRect;
      if (width > 20 && height > 20) size.value = { width, height };
    });
    watcher.observe(frame.current!);
    return () => watcher.disconnect();
  }, []);

  useEffect(() => {
    const canvas = select(front.current!);
    behaviour.current
      .scaleExtent([0.05, 12])
      .filter((event: Event) => !(event as MouseEvent).button && (event.type !== "wheel" || (event as WheelEvent).ctrlKey || (event as WheelEvent).metaKey || document.activeElement === front.current))
      .on("zoom", ({ transform }: { transform: ZoomTransform }) => (view.value = { k: transform.k, x: transform.x, y: transform.y }));
    canvas.call(behaviour.current).on("dblclick.zoom", null);
    exposed.zoomBy = (factor) => canvas.call(behaviour.current.scaleBy, factor);
    exposed.fit = () => canvas.call(behaviour.current.transform, fitted(layout.value, size.value));
    exposed.scene = () => scene.value;
    exposed.centre = (x, y) => canvas.call(behaviour.current.translateTo, x, y);
  }, []);

  // What does not fit is shown whole at first, and again whenever the pane is of another size.
  useEffect(() => effect(() => {
    void size.value;
    exposed.fit();
  }), []);

  useEffect(() => painted(ground, () => scene.value, drawBands, (now) => [now.layout, now.view, now.width, now.height, now.colours]), []);
  useEffect(() => painted(back, () => scene.value, drawBack, (now) => [now.layout, now.links, now.view, now.width, now.height, now.colours]), []);
  useEffect(() => painted(front, () => scene.value, drawFrontAndMap, (now) => [now]), []);

  const rowAt = (event: MouseEvent) => {
    const box = front.current!.getBoundingClientRect();
    const { k, x, y } = view.value;
    return hits.value.find((event.clientX - box.left - x) / k, (event.clientY - box.top - y) / k, REACH / k) ?? null;
  };
  const over = useSignal<{ link: Link; x: number; y: number } | null>(null);
  const linkUnder = (event: MouseEvent) => {
    const box = front.current!.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const now = scene.value;
    const link = y > now.height - FOOT ? null : linkAt(now.bright.length ? now.bright : now.links, (row) => at(now, row), x, y, NEAR);
    return link && { link, x, y };
  };
  const press = useRef<number>(0);
  const dim = scene.value.bright.length > 0;
  return (
    <>
    <div class="graph" ref={frame}>
      <canvas ref={ground} aria-hidden="true" />
      <canvas ref={back} class={dim ? "back dim" : "back"} aria-hidden="true" />
      <canvas
        ref={front}
        class="front"
        tabIndex={0}
        role="application"
        aria-roledescription="graph"
        aria-label="Attribution graph, tokens across and layers up. Arrow keys move between nodes, Enter selects, P pins, M marks. The table lists the same nodes."
        onPointerMove={(event) => {
          if (event.pointerType !== "mouse") return;
          store.hovered.value = rowAt(event);
          over.value = store.hovered.value === null && !event.buttons ? linkUnder(event) : null;
        }}
        onPointerLeave={() => {
          store.hovered.value = null;
          over.value = null;
        }}
        onPointerDown={(event) => {
          const row = rowAt(event);
          if (event.pointerType !== "mouse" && row !== null) press.current = window.setTimeout(() => togglePin(store, row), LONG_PRESS_MS);
        }}
        onPointerUp={() => clearTimeout(press.current)}
        onPointerCancel={() => clearTimeout(press.current)}
        onContextMenu={(event) => event.preventDefault()}
        onClick={(event) => {
          const box = front.current!.getBoundingClientRect();
          if (goTo(scene.value, event.clientX - box.left, event.clientY - box.top)) return;
          const row = rowAt(event);
          if (row !== null && event.shiftKey) toggleMark(store, row);
          else if (row !== null && (event.ctrlKey || event.metaKey)) togglePin(store, row);
          else store.select(row);
        }}
        onDblClick={(event) => {
          const row = rowAt(event);
          if (row !== null) togglePin(store, row);
        }}
        onKeyDown={(event) => {
          const direction = ARROWS[event.key];
          if (!direction || event.altKey || event.ctrlKey || event.metaKey) return;
          event.preventDefault();
          walk(store, layout.value, direction, view, size.value);
        }}
      />
      <Tip scene={scene.value} />
      {over.value && store.hovered.value === null && <LinkTip {...over.value} width={scene.value.width} height={scene.value.height} />}
      <div class="corner">
        <Button quiet label="Zoom in" title="Zoom in (+)" onClick={() => exposed.zoomBy(1.4)}>+</Button>
        <Button quiet label="Zoom out" title="Zoom out (−)" onClick={() => exposed.zoomBy(1 / 1.4)}>−</Button>
        <Button quiet label="Show all" title="Show all (0)" onClick={() => exposed.fit()}>All</Button>
      </div>
    </div>
    <Legend />
    </>
  );
}

/** Keys are the graph's, or the table's, from now on. Where neither is in sight they are at least nobody's else. */
export function toGraph(): void {
  document.querySelector<HTMLElement>("canvas.front, .pane.main tr[data-at]")?.focus({ preventScroll: true });
  if (document.activeElement instanceof HTMLInputElement) document.activeElement.blur();
}

/** What keys and exports need of the pane that is on the page. */
export const exposed: { zoomBy: (factor: number) => void; fit: () => void; centre: (x: number, y: number) => void; scene: () => Scene | null } = {
  centre: () => undefined,
  zoomBy: () => undefined,
  fit: () => undefined,
  scene: () => null,
};

function drawFrontAndMap(pen: CanvasRenderingContext2D, scene: Scene): void {
  drawFront(pen, scene);
  drawMap(pen, scene);
}

/** A click into the map in the corner shows that place. */
function goTo(scene: Scene, x: number, y: number): boolean {
  const map = mapOf(scene);
  if (!map || x < map.x || y < map.y || x > map.x + map.width || y > map.y + map.height) return false;
  exposed.centre((x - map.x) / map.k, (y - map.y) / map.k);
  return true;
}

function fitted(layout: { width: number; height: number }, size: { width: number; height: number }): ZoomTransform {
  const [wide, high] = [size.width - AXIS - 12, size.height - FOOT - 4];
  const k = Math.min(1, wide / layout.width, high / layout.height);
  return zoomIdentity.translate(AXIS + (wide - layout.width * k) / 2, 2 + (high - layout.height * k) / 2).scale(k);
}

function sceneOf(store: Store, layout: Scene["layout"], view: Scene["view"], size: { width: number; height: number }): Scene {
  const { graph } = store;
  const rowsOf = (names: readonly string[]) => names.map((name) => graph.rowOf.get(name)).filter((row) => row !== undefined);
  const focus = store.hovered.value ?? store.selected.value;
  const bright = pathLinks.value ?? (focus === null ? [] : [...store.linksOf(focus).outputs, ...store.linksOf(focus).inputs].sort((a, b) => a.share - b.share));
  const grouped = new Map<number, string>();
  for (const one of store.work.value.supernodes) for (const row of rowsOf(one.members)) grouped.set(row, one.label);
  return {
    graph, layout, view, ...size, bright, grouped,
    rows: store.rows.value,
    links: store.links.value,
    labels: store.labels.value,
    influence: store.influence,
    colours: colours.value,
    selected: store.selected.value,
    hovered: store.hovered.value,
    pins: new Set(rowsOf(store.work.value.pins)),
    marked: store.marked.value,
    found: new Set([...store.found.value, ...store.lit.value]),
  };
}

/** The links of the path that a person looks at, instead of those of one node. */
export const pathLinks = signal<Scene["bright"] | null>(null);

/** Paints once a frame at most, and only where something of what matters is another. */
function painted(canvas: { current: HTMLCanvasElement | null }, now: () => Scene, paint: (pen: CanvasRenderingContext2D, scene: Scene) => void, matters: (scene: Scene) => unknown[]): () => void {
  let pending = 0;
  let former: unknown[] = [];
  const stop = effect(() => {
    const scene = now();
    const fresh = matters(scene);
    if (former.length && fresh.every((value, at) => Object.is(value, former[at]))) return;
    former = fresh;
    cancelAnimationFrame(pending);
    pending = requestAnimationFrame(() => {
      const element = canvas.current;
      if (!element) return;
      const ratio = Math.min(2, window.devicePixelRatio || 1);
      const [width, height] = [Math.round(scene.width * ratio), Math.round(scene.height * ratio)];
      if (element.width !== width || element.height !== height) [element.width, element.height] = [width, height];
      const pen = element.getContext("2d")!;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, scene.width, scene.height);
      paint(pen, scene);
      if (paint === drawFrontAndMap) performance.mark("tl-circuits-painted");
    });
  });
  return () => {
    stop();
    cancelAnimationFrame(pending);
  };
}

function walk(store: Store, layout: Scene["layout"], direction: Direction, view: { value: Scene["view"] }, size: { width: number; height: number }): void {
  const rows = store.rows.value.filter((row) => !Number.isNaN(layout.x[row]));
  const from = store.selected.value;
  const isFeature = (row: number) => Number(store.graph.nodes.kind[row] === FEATURE);
  const start = [...rows].sort((a, b) => isFeature(b) - isFeature(a) || store.influence[b] - store.influence[a])[0] ?? null;
  const next = from === null || Number.isNaN(layout.x[from]) ? start : neighbour(layout, rows, from, direction);
  if (next === null) return;
  store.select(next);
  store.say(`${called(store.graph, store.labels.value, next)}, ${where(store.graph, next)}, influence ${percent(store.influence[next])}`);
  const [x, y] = [layout.x[next] * view.value.k + view.value.x, layout.y[next] * view.value.k + view.value.y];
  if (x < AXIS || y < 0 || x > size.width || y > size.height - FOOT) exposed.fit();
}

function Tip({ scene }: { scene: Scene }) {
  const store = useStore();
  const row = store.hovered.value;
  if (row === null || Number.isNaN(scene.layout.x[row])) return null;
  const { graph } = store;
  const x = scene.layout.x[row] * scene.view.k + scene.view.x;
  const y = scene.layout.y[row] * scene.view.k + scene.view.y;
  const style = { left: `${Math.max(8, Math.min(x + 14, scene.width - 270))}px`, top: `${y > scene.height - 130 ? y - 96 : y + 18}px` };
  const link = store.selected.value === null || store.selected.value === row ? null : between(store, row, store.selected.value);
  return (
    <div class="tip" style={style} aria-hidden="true">
      <strong>{called(graph, store.labels.value, row)}</strong>
      <span>{where(graph, row)}</span>
      <span>
        influence {percent(store.influence[row])}
        {Number.isNaN(graph.activations[row]) ? "" : ` · value ${plain(graph.activations[row])}`}
      </span>
      {link && (
        <span class={link.weight < 0 ? "negative" : "positive"}>
          {link.target === row ? "to" : "from"} it: {signed(link.weight)}, {percent(link.share)} of {link.target === row ? "its" : "the selected node’s"} inputs
        </span>
      )}
    </div>
  );
}

/** What a link is and carries. */
function LinkTip({ link, x, y, width, height }: { link: Link; x: number; y: number; width: number; height: number }) {
  const store = useStore();
  const { graph } = store;
  const name = (row: number) => called(graph, store.labels.value, row);
  const counted = store.shares.counted[link.source];
  const style = { left: `${Math.max(8, Math.min(x + 14, width - 270))}px`, top: `${y > height - 130 ? y - 100 : y + 18}px` };
  return (
    <div class="tip" style={style} aria-hidden="true">
      <span>{name(link.source)} → {name(link.target)}</span>
      <strong class={link.weight < 0 ? "negative" : "positive"}>{signed(link.weight)}{counted ? `, ${percent(link.share)} of its inputs` : ", a constant"}</strong>
      <span>carries {percent(link.carried)} of the influence</span>
    </div>
  );
}

function between(store: Store, row: number, selected: number) {
  const { inputs, outputs } = store.linksOf(selected);
  return inputs.find((link) => link.source === row) ?? outputs.find((link) => link.target === row) ?? null;
}
