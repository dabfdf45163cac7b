// Labels of a transcoder's features as a file of their own, to use again on other graphs.

import { Problems } from "../graph/graph.ts";
import { csv, readCsv } from "./tables.ts";

export const FORMAT = "tl_circuits.labels";

/** `weights` tells transcoders of one name apart, where the graph says it. */
export function labelsJson(labels: ReadonlyMap<string, string>, transcoder: string, weights = ""): string {
  const rows = [...labels].map(([key, text]) => [...key.split("/").map(Number), text] as [number, number, string]);
  rows.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  return `{"format": "${FORMAT}", "version": "1", "transcoder": ${JSON.stringify(transcoder)},${weights && ` "transcoder_weights": ${JSON.stringify(weights)},`} "labels": [\n${rows.map((row) => JSON.stringify(row)).join(",\n")}\n]}\n`;
}

export function labelsCsv(labels: ReadonlyMap<string, string>): string {
  const rows = [...labels].map(([key, text]) => [...key.split("/").map(Number), text] as [number, number, string]);
  return csv([["layer", "index", "label"], ...rows.sort((a, b) => a[0] - b[0] || a[1] - b[1])]);
}

/** Labels by "layer/index", and the transcoder they are of and its weights where the file says so. Throws Problems, the first five, where the text holds anything else. */
export function readLabels(given: string): { labels: Record<string, string>; transcoder: string; weights: string } {
  let whole: any;
  if (/^\uFEFF?"?layer"?,/.test(given)) return { labels: fromRows(readCsv(given.replace(/^\uFEFF/, "")).slice(1).map(([layer, index, text]) => [wholeNumber(layer), wholeNumber(index), text])), transcoder: "", weights: "" };
  try {
    whole = JSON.parse(given);
  } catch (error) {
    throw new Problems([`This is no JSON: ${(error as Error).message}`]);
  }
  if (whole?.format !== FORMAT || !Array.isArray(whole.labels)) {
    throw new Problems([`This is no file of labels: its format is ${JSON.stringify(whole?.format ?? null)}, not "${FORMAT}".`]);
  }
  return { labels: fromRows(whole.labels), transcoder: textOf(whole.transcoder), weights: textOf(whole.transcoder_weights) };
}

function textOf(given: unknown): string {
  return typeof given === "string" ? given : "";
}

function fromRows(rows: unknown[]): Record<string, string> {
  const found: Record<string, string> = {};
  const problems: string[] = [];
  rows.forEach((row: unknown, at: number) => {
    if (Array.isArray(row) && Number.isInteger(row[0]) && Number.isInteger(row[1]) && typeof row[2] === "string") found[`${row[0]}/${row[1]}`] = row[2];
    else problems.push(`Label ${at} is ${(JSON.stringify(row) ?? "nothing").slice(0, 60)}, not [layer, index, "text"].`);
  });
  if (problems.length) throw new Problems(problems.slice(0, 5));
  return found;
}

function wholeNumber(text: string | undefined): number {
  return text !== undefined && /^\d{1,15}$/.test(text) ? Number(text) : NaN;
}
