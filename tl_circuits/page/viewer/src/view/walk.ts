// From node to node with the arrow keys.

import type { Layout } from "./layout.ts";

export type Direction = "left" | "right" | "up" | "down";

/** The nearest node that way: sideways within the same band, up and down in the next band that holds one. Null at the end. */
export function neighbour(layout: Layout, rows: readonly number[], from: number, direction: Direction): number | null {
  const [x, y] = [layout.x[from], layout.y[from]];
  const band = bandOf(layout, y);
  const sideways = direction === "left" || direction === "right";
  const onward = direction === "right" || direction === "up" ? 1 : -1;
  let best: number | null = null;
  let least = Infinity;
  for (const row of rows) {
    if (row === from) continue;
    const steps = bandOf(layout, layout.y[row]) - band;
    const beyond = layout.x[row] - x || (layout.y[row] - y) / 1e6;
    if (sideways ? steps !== 0 || beyond * onward <= 0 : steps * onward <= 0) continue;
    const far = sideways ? Math.abs(beyond) : Math.abs(steps) * 1e6 + Math.abs(layout.x[row] - x) + Math.abs(layout.y[row] - y) / 1e3;
    if (far < least) [best, least] = [row, far];
  }
  return best;
}

function bandOf(layout: Layout, y: number): number {
  return layout.lines.findIndex((line) => y >= line.y && y <= line.y + line.height);
}
