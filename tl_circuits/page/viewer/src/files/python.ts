// The selection as Python, to act on with tl_circuits.

import type { Work } from "../state/work.ts";

export function python(work: Work): string {
  const lines = ["import tl_circuits as tlc", ""];
  const grouped = new Set(work.supernodes.flatMap((one) => one.members));
  const alone = work.pins.filter((name) => !grouped.has(name));
  lines.push("supernodes = {", ...work.supernodes.map((one) => `    ${text(one.label)}: [${features(one.members).map(text).join(", ")}],`), "}");
  lines.push(`pins = [${features(alone).map(text).join(", ")}]`, "");
  const first = work.supernodes[0];
  const acted = first ? `supernodes[${text(first.label)}]` : "pins";
  lines.push(`interventions = [tlc.Intervention(${acted}, scale=0)]  # 0 ablates, -1 flips`, "# tlc.intervene(local, interventions)");
  return lines.join("\n") + "\n";
}

function features(names: readonly string[]): string[] {
  return names.filter((name) => /^L\d+\/\d+@\d+$/.test(name));
}

/** A JSON text is a Python text too; line separators are escaped so that it stays on its line. */
function text(value: string): string {
  return JSON.stringify(value).replace(/[\u007f-\u009f\u2028\u2029]/g, (letter) => `\\u${letter.charCodeAt(0).toString(16).padStart(4, "0")}`);
}
