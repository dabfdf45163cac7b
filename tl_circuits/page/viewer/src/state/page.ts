// What Python puts beside the graph: a title, feature cards, and what was done already.

export interface Card {
  top_logits?: [string, number][];
  bottom_logits?: [string, number][];
  examples?: { tokens: string[]; activations: number[] }[];
  density?: number | null;
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
