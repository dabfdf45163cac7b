// What a person has done with the graph, as a value. All of it can be undone, linked to and written to a file.

import { BIAS, B_DEC, ERROR, FEATURE, MASKED, POSITION, TARGET, TOKEN } from "../graph/graph.ts";

export interface Supernode {
  label: string;
  members: string[];
}

export type Sign = "both" | "positive" | "negative";

export interface Work {
  nodes: number;
  edges: number;
  errors: boolean;
  constants: boolean;
  kinds: number[];
  layers: [number, number] | null;
  positions: number[];
  /** Every token of a long prompt, and not only those that matter most. */
  allTokens: boolean;
  /** Features that fire on a larger share of tokens are hidden; null hides none. */
  density: number | null;
  sign: Sign;
  pins: string[];
  supernodes: Supernode[];
  /** Labels that a person gave to features, by "layer/index". */
  labels: Record<string, string>;
}

export const FAMILIES: { name: string; kinds: number[] }[] = [
  { name: "features", kinds: [FEATURE] },
  { name: "errors", kinds: [ERROR] },
  { name: "tokens", kinds: [TOKEN] },
  { name: "constants", kinds: [POSITION, MASKED, B_DEC, BIAS] },
  { name: "outputs", kinds: [TARGET] },
];

export const FRESH: Work = {
  nodes: 0.8,
  edges: 0.98,
  errors: false,
  constants: false,
  kinds: [FEATURE, ERROR, TOKEN, TARGET],
  layers: null,
  positions: [],
  allTokens: false,
  density: null,
  sign: "both",
  pins: [],
  supernodes: [],
  labels: {},
};

export function togglePins(work: Work, names: readonly string[]): Work {
  const all = names.every((name) => work.pins.includes(name));
  return all ? { ...work, pins: work.pins.filter((name) => !names.includes(name)) } : pin(work, names);
}

export function pin(work: Work, names: readonly string[]): Work {
  return { ...work, pins: [...new Set([...work.pins, ...names])] };
}

export function unpin(work: Work, names: readonly string[]): Work {
  return { ...work, pins: work.pins.filter((name) => !names.includes(name)) };
}

/** One supernode of these nodes, which are pinned and belong to no other. */
export function group(work: Work, label: string, names: readonly string[]): Work {
  return { ...pin(work, names), supernodes: joined(work.supernodes, label, names) };
}

/** These supernodes and one more: its members leave those that had them. */
function joined(supernodes: readonly Supernode[], label: string, names: readonly string[]): Supernode[] {
  const taken = new Set(names);
  const others = supernodes
    .map((one) => ({ ...one, members: one.members.filter((name) => !taken.has(name)) }))
    .filter((one) => one.members.length);
  return [...others, { label: distinct(label, others), members: [...taken] }];
}

export function rename(work: Work, label: string, to: string): Work {
  const others = work.supernodes.filter((one) => one.label !== label);
  return { ...work, supernodes: work.supernodes.map((one) => (one.label === label ? { ...one, label: distinct(to, others) } : one)) };
}

/** The supernode is no more; its members stay pinned. */
export function ungroup(work: Work, label: string): Work {
  return { ...work, supernodes: work.supernodes.filter((one) => one.label !== label) };
}

export function label(work: Work, key: string, text: string | null): Work {
  const { [key]: _, ...others } = work.labels;
  return { ...work, labels: text === null ? others : { ...others, [key]: text } };
}

function distinct(label: string, others: readonly Supernode[]): string {
  const plain = label.trim() || "supernode";
  let found = plain;
  for (let number = 2; others.some((one) => one.label === found); number++) found = `${plain} ${number}`;
  return found;
}

/** What of a strange value is work on a graph: unknown fields are left out, and so are values that cannot be. */
export function asWork(given: unknown, otherwise: Work): Work {
  const found = typeof given === "object" && given !== null ? (given as Record<string, unknown>) : {};
  const share = (value: unknown, or: number) => (typeof value === "number" && value > 0 && value <= 1 ? value : or);
  const list = <T>(value: unknown, is: (item: unknown) => item is T, or: T[]): T[] => (Array.isArray(value) ? value.filter(is) : or);
  const text = (value: unknown): value is string => typeof value === "string";
  const whole = (value: unknown): value is number => Number.isInteger(value);
  const layers = list(found["layers"], whole, []);
  const labels = Object.entries(Object(found["labels"] ?? {})).filter(([key, value]) => /^\d+\/\d+$/.test(key) && text(value));
  return {
    nodes: share(found["nodes"], otherwise.nodes),
    edges: share(found["edges"], otherwise.edges),
    errors: typeof found["errors"] === "boolean" ? found["errors"] : otherwise.errors,
    constants: typeof found["constants"] === "boolean" ? found["constants"] : otherwise.constants,
    kinds: list(found["kinds"], whole, otherwise.kinds),
    layers: layers.length === 2 ? [layers[0], layers[1]] : null,
    positions: list(found["positions"], whole, otherwise.positions),
    allTokens: found["allTokens"] === true,
    density: typeof found["density"] === "number" ? share(found["density"], 1) : null,
    sign: found["sign"] === "positive" || found["sign"] === "negative" ? found["sign"] : "both",
    pins: [...new Set(list(found["pins"], text, otherwise.pins))],
    supernodes: list(found["supernodes"], isSupernode, otherwise.supernodes)
      .map((one) => ({ ...one, members: one.members.filter(text) }))
      .filter((one) => one.members.length)
      .reduce<Supernode[]>((kept, one) => joined(kept, one.label, one.members), []),
    labels: { ...otherwise.labels, ...(Object.fromEntries(labels) as Record<string, string>) },
  };
}

function isSupernode(value: unknown): value is Supernode {
  const one = value as Supernode;
  return typeof value === "object" && value !== null && typeof one.label === "string" && Array.isArray(one.members) && one.members.length > 0;
}
