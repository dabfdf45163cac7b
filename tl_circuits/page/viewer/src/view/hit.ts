// Which of the curves between nodes lies under the pointer.

import type { Link } from "./shown.ts";

const STEPS = 24;

/** How far a curve swings out at its ends, which lie so far apart in height. */
export function bendOf(y0: number, y1: number): number {
  return Math.max(18, Math.abs(y1 - y0) * 0.45);
}

/** The link that is drawn last among those within `reach` of (x, y); null where none is. */
export function linkAt(links: readonly Link[], place: (row: number) => [number, number], x: number, y: number, reach: number): Link | null {
  for (let at = links.length - 1; at >= 0; at--) {
    const [x0, y0] = place(links[at].source);
    const [x1, y1] = place(links[at].target);
    if (Number.isNaN(x0) || Number.isNaN(x1)) continue;
    const bend = bendOf(y0, y1);
    if (x < Math.min(x0, x1) - reach || x > Math.max(x0, x1) + reach || y < Math.min(y0 - bend, y1) - reach || y > Math.max(y0, y1 + bend) + reach) continue;
    if (near(x0, y0, x1, y1, bend, x, y) <= reach) return links[at];
  }
  return null;
}

/** The distance to the curve, which is taken for so many straight pieces. */
function near(x0: number, y0: number, x1: number, y1: number, bend: number, x: number, y: number): number {
  let [px, py, least] = [x0, y0, Infinity];
  for (let step = 1; step <= STEPS; step++) {
    const t = step / STEPS;
    const u = 1 - t;
    const [a, b, c, d] = [u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t];
    const qx = (a + b) * x0 + (c + d) * x1;
    const qy = a * y0 + b * (y0 - bend) + c * (y1 + bend) + d * y1;
    least = Math.min(least, toPiece(px, py, qx, qy, x, y));
    [px, py] = [qx, qy];
  }
  return least;
}

function toPiece(x0: number, y0: number, x1: number, y1: number, x: number, y: number): number {
  const [dx, dy] = [x1 - x0, y1 - y0];
  const long = dx * dx + dy * dy;
  const t = long > 0 ? Math.max(0, Math.min(1, ((x - x0) * dx + (y - y0) * dy) / long)) : 0;
  return Math.hypot(x - x0 - t * dx, y - y0 - t * dy);
}
