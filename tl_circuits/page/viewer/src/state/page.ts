// What Python puts beside the graph: a title, feature cards, and what was done already.

/** A token, and how strong its effect is where that is known. */
export type Effect = [string, number | null];

export interface Example {
  tokens: string[];
  activations: number[];
  peak?: number;
}

/** Activations by operands, row by row, each as a byte of base64: 255 is `most`. */
export interface OperandGrid {
  template: string;
  a: number[];
  b: number[];
  most: number;
  cells: string;
}

export interface Card {
  top_logits?: Effect[];
  bottom_logits?: Effect[];
  embeddings?: Effect[];
  examples?: Example[];
  intervals?: { name: string; examples: Example[] }[];
  histogram?: { low: number; high: number; counts: number[] } | null;
  density?: number | null;
  maximum?: number | null;
  n_tokens?: number | null;
  operands?: OperandGrid | null;
}

/** An intervention on the prompt, and what it did. */
export interface Run {
  name: string;
  interventions: string[];
  mode: string;
  layers: number[];
  attention?: string;
  before: { text: string; probability: number }[];
  after: { text: string; probability: number }[];
  moved: { feature: string; before: number; after: number }[];
  continuation?: { before: string; after: string };
}

/** One node here and in the graph that this one is compared with; null where one lacks it. */
export interface Change {
  here: string | null;
  there: string | null;
  label: string;
  influence: [number, number];
  activation: [number | null, number | null];
}

export interface Difference {
  title: string;
  both: number;
  only_here: number;
  only_there: number;
  nodes: Change[];
  edges: [string, string, number, number][];
}

export interface PageData {
  version: string;
  title: string;
  cards: Record<string, Card>;
  runs: Run[];
  diff: Difference | null;
  /** Who shows the page and keeps what is done on it, and whether it runs interventions; nobody does for a file. */
  host: "widget" | "server" | null;
  acts: boolean;
  work: unknown;
}

export function asPage(given: unknown): PageData {
  const found = Object(given) as Partial<PageData>;
  return { version: String(found.version ?? "0"), title: String(found.title ?? ""), cards: found.cards ?? {}, runs: found.runs ?? [], diff: found.diff ?? null, host: found.host ?? null, acts: found.acts === true, work: found.work ?? {} };
}
