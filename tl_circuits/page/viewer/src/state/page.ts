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

export interface PageData {
  version: string;
  title: string;
  cards: Record<string, Card>;
  work: unknown;
}

export function asPage(given: unknown): PageData {
  const found = Object(given) as Partial<PageData>;
  return { version: String(found.version ?? "0"), title: String(found.title ?? ""), cards: found.cards ?? {}, work: found.work ?? {} };
}
