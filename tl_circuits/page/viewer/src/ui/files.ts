// The files that can be written from the page.

import { Problems } from "../graph/graph.ts";
import { copy, download } from "../files/download.ts";
import { dot } from "../files/dot.ts";
import { labelsCsv, labelsJson, readLabels } from "../files/labels.ts";
import { escaped, SvgPen } from "../files/pen.ts";
import { python } from "../files/python.ts";
import { edgesCsv, nodesCsv } from "../files/tables.ts";
import { isViewerJson, readGroups } from "../files/read_work.ts";
import { viewerJson } from "../files/viewer_json.ts";
import type { Store } from "../state/store.ts";
import { drawWhole } from "./draw.ts";
import { exposed } from "./graph_pane.tsx";
import { count } from "./words.ts";

export interface FileKind {
  name: string;
  what: string | ((store: Store) => string);
  write: (store: Store) => void | Promise<void>;
}

export const FILES: FileKind[] = [
  { name: "Graph as SVG", what: "The graph as it is on display.", write: (store) => graphSvg(store) },
  { name: "Graph as PNG", what: "The same at twice the size.", write: (store) => graphPng(store) },
  { name: "Subgraph as SVG", what: "Pins and supernodes, for a paper.", write: (store) => subgraphSvg(store) },
  { name: "JSON", what: "For Neuronpedia and circuit-tracer, and for tlc.load_supernodes: all nodes and edges that pruning keeps, with pins, supernodes and labels.", write: (store) => download(`${slug(store)}.json`, viewerJson(store.graph, store.work.value, store.labels.value, store.cut.value, store.page.version), "application/json") },
  { name: "Nodes as CSV", what: "The nodes on display.", write: (store) => download(`${slug(store)}-nodes.csv`, nodesCsv(store.graph, store.labels.value, store.influence, store.rows.value), "text/csv") },
  { name: "Edges as CSV", what: (store) => `All ${count(store.nShown.value, "edge")} on display, of ${store.nEdges.value.toLocaleString("en")} that pruning keeps.`, write: (store) => download(`${slug(store)}-edges.csv`, edgesCsv(store.graph, store.everyLink()), "text/csv") },
  { name: "Graphviz", what: "The graph on display as DOT.", write: (store) => download(`${slug(store)}.dot`, dot(store.graph, store.labels.value, store.rows.value, store.everyLink()), "text/vnd.graphviz") },
  { name: "Copy Python", what: "Pins and supernodes for a notebook, and an intervention on them.", write: async (store) => store.say((await copy(python(store.work.value))) ? "Copied." : "Nothing could be copied here: write the file.") },
  { name: "Python", what: "The same as a file.", write: (store) => download(`${slug(store)}.py`, python(store.work.value), "text/x-python") },
  { name: "Labels", what: "Names of features, for tlc.load_labels and for other graphs.", write: (store) => download("labels.json", labelsJson(store.labels.value, String(store.graph.provenance["transcoder"] ?? ""), weightsOf(store)), "application/json") },
  { name: "Labels as CSV", what: "The same for a spreadsheet; Read takes it back.", write: (store) => download("labels.csv", labelsCsv(store.labels.value), "text/csv") },
];

/** What was wrong with the file; nothing where what it holds was taken: labels, or pins, supernodes and labels. */
export function takeFile(store: Store, text: string): string[] {
  try {
    return isViewerJson(text) ? takeGroups(store, text) : takeLabels(store, text);
  } catch (error) {
    return error instanceof Problems ? error.problems : [String(error)];
  }
}

function takeGroups(store: Store, text: string): string[] {
  const found = readGroups(store.graph, store.work.value, text);
  store.change(found.work);
  store.say(`${count(found.supernodes, "supernode")} and ${count(found.pins, "pin")} read.`);
  return found.missing ? [`${count(found.missing, "node")} of the file ${found.missing === 1 ? "is" : "are"} not in this graph, and left out.`] : [];
}

function takeLabels(store: Store, text: string): string[] {
  const { labels, transcoder, weights } = readLabels(text);
  store.change({ ...store.work.value, labels: { ...store.work.value.labels, ...labels } });
  store.say(`${count(Object.keys(labels).length, "label")} read.`);
  const own = String(store.graph.provenance["transcoder"] ?? "");
  const other = weights && weightsOf(store) ? weights !== weightsOf(store) : transcoder && own && transcoder !== own;
  return other ? [`These labels were given to features of ${called(transcoder, weights)}, and this graph has those of ${called(own, weightsOf(store))}: they may mean something else. Undo takes them back.`] : [];
}

/** Which weights the transcoder has, as the graph tells them. */
function weightsOf(store: Store): string {
  return String(Object(store.graph.provenance["settings"])["transcoder_weights"] ?? "");
}

function called(transcoder: string, weights: string): string {
  return `${transcoder || "a transcoder"}${weights && ` (${weights})`}`;
}

function slug(store: Store): string {
  // Special tokens such as <bos> are no words.
  return (String(store.graph.provenance["prompt"] || "graph").replace(/<[^<>]*>/g, " ").match(/[a-zA-Z0-9]+/g) ?? ["graph"]).join("-").slice(0, 60);
}

export function graphSvgText(store: Store): string {
  const scene = exposed.scene()!;
  const pen = new SvgPen(document.createElement("canvas").getContext("2d")!);
  drawWhole(pen, scene);
  return pen.document(scene.width, scene.height, store.graph.tokens.join(""));
}

function graphSvg(store: Store): void {
  download(`${slug(store)}.svg`, graphSvgText(store), "image/svg+xml");
}

async function graphPng(store: Store): Promise<void> {
  const scene = exposed.scene()!;
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [scene.width * 2, scene.height * 2];
  const pen = canvas.getContext("2d")!;
  pen.scale(2, 2);
  drawWhole(pen, scene);
  const blob = await new Promise<Blob | null>((done) => canvas.toBlob(done, "image/png"));
  if (blob) download(`${slug(store)}.png`, blob, "image/png");
}

const DRAWN = ["fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-opacity", "font-family", "font-size", "font-weight", "color"] as const;

export function subgraphSvgText(): string | null {
  const svg = document.getElementById("subgraph");
  if (!svg) return null;
  // What the style sheet says is written into the copy, which has none.
  const walk = (from: Element): string => {
    if (from.matches(".close, .target, foreignObject")) return "";
    const style = getComputedStyle(from);
    const own = [...from.attributes].filter(({ name }) => /^(d|x|y|x1|x2|y1|y2|cx|cy|r|rx|width|height|transform|viewBox|text-anchor|dominant-baseline)$/.test(name)).map(({ name, value }) => `${name}="${escaped(value)}"`);
    const drawn = from.matches("rect, path, text") ? DRAWN.map((name) => `${name}="${escaped(style.getPropertyValue(name))}"`) : [];
    const inside = [...from.childNodes].map((child) => (child instanceof Element ? walk(child) : escaped(child.textContent ?? ""))).join("");
    const root = from === svg ? ' xmlns="http://www.w3.org/2000/svg"' : "";
    return `<${from.tagName}${root} ${[...own, ...drawn].join(" ")}>${inside}</${from.tagName}>`;
  };
  return walk(svg);
}

function subgraphSvg(store: Store): void {
  const text = subgraphSvgText();
  if (text) download(`${slug(store)}-subgraph.svg`, text, "image/svg+xml");
  else store.say("Nothing is pinned, so there is no subgraph to write.");
}
