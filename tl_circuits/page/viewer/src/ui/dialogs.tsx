import { useSignal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { visible } from "../graph/graph.ts";
import { errorShares } from "../graph/scores.ts";
import { FAMILIES, FRESH, type Sign } from "../state/work.ts";
import { Button } from "./button.tsx";
import { useStore } from "./context.ts";
import { Dialog } from "./dialog.tsx";
import { FILES, takeFile } from "./files.ts";
import { address } from "./address.ts";
import { choose, copy } from "../files/download.ts";
import { percent } from "./words.ts";

export function Dialogs() {
  return (
    <>
      <Filters />
      <Export />
      <LinkTo />
      <About />
      <Help />
    </>
  );
}

function Filters() {
  const store = useStore();
  const work = store.work.value;
  const kinds = new Set(work.kinds);
  const toggle = (family: number[]) => {
    const on = family.every((kind) => kinds.has(kind));
    store.change({ ...work, kinds: on ? work.kinds.filter((kind) => !family.includes(kind)) : [...work.kinds, ...family] });
  };
  const [low, high] = work.layers ?? [0, store.graph.nLayers - 1];
  const layers = (from: number, to: number) => store.change({ ...work, layers: from <= 0 && to >= store.graph.nLayers - 1 ? null : [from, Math.max(from, to)] });
  const options = Array.from({ length: store.graph.nLayers }, (_, layer) => layer);
  return (
    <Dialog name="filters" title="What is shown">
      <fieldset>
        <legend>Kinds</legend>
        {FAMILIES.map((family) => (
          <label key={family.name}><input type="checkbox" checked={family.kinds.every((kind) => kinds.has(kind))} onChange={() => toggle(family.kinds)} /> {family.name}</label>
        ))}
      </fieldset>
      <fieldset>
        <legend>Layers</legend>
        <label>from <select value={low} onChange={(event) => layers(Number(event.currentTarget.value), high)}>{options.map((layer) => <option key={layer} value={layer}>{layer}</option>)}</select></label>
        <label>to <select value={high} onChange={(event) => layers(low, Number(event.currentTarget.value))}>{options.map((layer) => <option key={layer} value={layer}>{layer}</option>)}</select></label>
      </fieldset>
      {Object.values(store.page.cards).some((card) => typeof card.density === "number") && (
        <fieldset>
          <legend>Density</legend>
          <label>
            features that fire on <select aria-label="Density" value={String(work.density ?? "")} onChange={(event) => store.change({ ...work, density: event.currentTarget.value ? Number(event.currentTarget.value) : null })}>
              <option value="">any share of tokens</option>
              {[0.3, 0.1, 0.03, 0.01, 0.001].map((share) => <option key={share} value={share}>at most {percent(share)}</option>)}
            </select>
          </label>
        </fieldset>
      )}
      <fieldset>
        <legend>Edges</legend>
        {(["both", "positive", "negative"] as Sign[]).map((sign) => (
          <label key={sign}><input type="radio" name="sign" checked={work.sign === sign} onChange={() => store.change({ ...work, sign })} /> {sign === "both" ? "all" : sign}</label>
        ))}
      </fieldset>
      <fieldset>
        <legend>Pruning</legend>
        <label><input type="checkbox" checked={work.errors} onChange={() => store.change({ ...work, errors: !work.errors })} /> prune errors too, as circuit-tracer does</label>
        <label><input type="checkbox" checked={work.constants} onChange={() => store.change({ ...work, constants: !work.constants })} /> count constants as inputs</label>
      </fieldset>
      <p class="note">Kinds, layers, tokens and signs only hide. Scores follow pruning alone. Tokens are chosen in the prompt.</p>
      <Button onClick={() => store.change({ ...work, kinds: FRESH.kinds, layers: null, positions: [], density: null, sign: "both" })}>Show everything again</Button>
    </Dialog>
  );
}

function Export() {
  const store = useStore();
  const problems = useSignal<string[]>([]);
  return (
    <Dialog name="export" title="Files">
      <ul class="files">
        {FILES.map((file) => (
          <li key={file.name}>
            <Button onClick={() => {
              store.say(`${file.name} written.`);
              void file.write(store);
            }}>{file.name}</Button>
            <span>{typeof file.what === "string" ? file.what : file.what(store)}</span>
          </li>
        ))}
        <li>
          <Button onClick={() => choose(".json,.csv,application/json,text/csv", (text) => (problems.value = takeFile(store, text)))}>Read</Button>
          <span>Labels (JSON or CSV), or a graph’s JSON with its pins, supernodes and labels.</span>
        </li>
      </ul>
      {problems.value.length > 0 && <ul class="problems" role="alert">{problems.value.map((problem) => <li key={problem}>{visible(problem)}</li>)}</ul>}
    </Dialog>
  );
}

function LinkTo() {
  const store = useStore();
  const link = useSignal("");
  const copied = useSignal(false);
  const open = store.dialog.value === "link";
  useEffect(() => {
    copied.value = false;
    if (open) void address(store).then((text) => (link.value = text));
  }, [open]);
  return (
    <Dialog name="link" title="Link to this view">
      <p>The part behind # holds pins, supernodes, labels, sliders and filters. Whoever opens the same file with it sees what you see.</p>
      <input readOnly aria-label="Link" value={link.value} onFocus={(event) => event.currentTarget.select()} />
      <Button strong onClick={async () => (copied.value = await copy(link.value))}>{copied.value ? "Copied" : "Copy"}</Button>
    </Dialog>
  );
}

function kept(flags: Uint8Array, of: number): string {
  return percent(of ? flags.reduce((sum, flag) => sum + flag, 0) / of : 1);
}

function About() {
  const store = useStore();
  const { graph } = store;
  const made = graph.provenance;
  const shares = errorShares(graph, store.merged.value);
  const most = Math.max(...shares, 1e-9);
  const error = (value: number) => (Number.isNaN(value) ? "not measured" : value.toExponential(1));
  const facts: [string, string][] = [
    ["Prompt", String(made["prompt"] || graph.tokens.join(""))],
    ["Model", String(made["model"] || "unknown")],
    ["Transcoder", `${made["transcoder"] || "unknown"} (${made["transcoder_kind"] ?? ""}), ${made["read"]} → ${made["write"]}`],
    ["Precision", String(made["dtype"] ?? "")],
    ["Nodes, edges", `${graph.nodes.count.toLocaleString("en")}, ${graph.edges.source.length.toLocaleString("en")}${graph.pruned ? `, pruned to ${graph.pruned.nodeThreshold} / ${graph.pruned.edgeThreshold} from ${graph.pruned.nodesBefore.toLocaleString("en")} and ${graph.pruned.edgesBefore.toLocaleString("en")}` : ""}`],
    ["Coverage", `${percent(graph.coverage)} of the outputs’ influence is traced to its end`],
    ["Conservation error", `${error(graph.conservationError)}: a node’s inputs against its value, at worst`],
    ["Probe error", `${error(graph.probeError)}: all edges against real forward passes, at worst`],
    ["Masked positions", `${(made["masked_positions"] as number[] | undefined)?.join(", ") || "none"} ${made["masked_why"] ?? ""}`],
    ["Kept at these sliders", `${kept(store.cut.value.nodes, graph.nodes.count)} of the nodes, ${kept(store.cut.value.edges, graph.edges.source.length)} of the edges`],
    ["Settings", Object.entries(Object(made["settings"] ?? {})).filter(([, value]) => value !== null).map(([name, value]) => `${name.replace(/_/g, " ")} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ") || "unknown"],
    ["Versions", Object.entries((made["versions"] ?? {}) as Record<string, string>).map(([name, value]) => `${name} ${value}`).join(", ")],
    ["Page", `tl_circuits ${store.page.version}`],
  ];
  return (
    <Dialog name="provenance" title="Where this graph comes from">
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{visible(value)}</dd>
          </div>
        ))}
      </dl>
      <h3>Influence that ends in errors, by layer</h3>
      <table class="errors">
        <thead>
          <tr><th scope="col">Layer</th><th scope="col">Share</th><th scope="col"><span class="hidden">Bar</span></th></tr>
        </thead>
        <tbody>
          {shares.map((share, layer) => (layer < graph.nLayers || share > 0) && (
            <tr key={layer}>
              <th scope="row">{layer < graph.nLayers ? layer : "cut off elsewhere"}</th>
              <td>{percent(share)}</td>
              <td><span class="meter"><i style={{ width: `${(100 * share) / most}%` }} /></span></td>
            </tr>
          ))}
        </tbody>
      </table>
      <p class="note">Of what is kept at these sliders; what was pruned counts as error at its place.</p>
    </Dialog>
  );
}

const KEYS: [string, string][] = [
  ["/", "search; ↓ ↑ move in the list, Enter selects and goes to the graph, Esc clears and then leaves"],
  ["← → ↑ ↓", "in the graph: to the next node by token, by layer; in the table: by row"],
  ["P", "pin or unpin the selected node"],
  ["M", "mark it for grouping (or shift-click)"],
  ["G", "group what is marked as a supernode"],
  ["R", "label the selected feature"],
  ["F2, Delete", "on a box of the subgraph: rename, ungroup or unpin"],
  ["Ctrl+Z, Ctrl+Shift+Z", "undo, redo"],
  ["T", "graph or table"],
  ["F", "filters"],
  ["S", "suggest supernodes"],
  ["E", "files"],
  ["L", "link to this view"],
  ["I", "where the graph comes from"],
  ["+ − 0", "zoom in, out, show all (Ctrl+wheel, or the wheel once the graph has focus)"],
  ["D", "light, dark or as the system says"],
  ["Esc", "close, clear the search, select nothing"],
];

function Help() {
  return (
    <Dialog name="help" title="Help">
      <p>Circles are features, squares tokens and outputs, diamonds errors. Solid blue adds, dashed orange subtracts; wider is more. Hover over a link for its weight. Click selects, Ctrl-click, double click or a long press pins.</p>
      <dl class="keys">
        {KEYS.map(([key, what]) => (
          <div key={key}>
            <dt><kbd>{key}</kbd></dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
