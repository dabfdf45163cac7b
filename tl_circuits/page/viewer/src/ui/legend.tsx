import { linkWidth } from "./draw.ts";
import { percent } from "./words.ts";

const SHARES = [0.01, 0.1, 0.5];

/** What shapes, strokes and widths of the graph stand for. */
export function Legend() {
  return (
    <ul class="legend" aria-label="Legend">
      <li><span class="glyph feature" aria-hidden="true" /> feature</li>
      <li><span class="glyph token" aria-hidden="true" /> token, output</li>
      <li><span class="glyph error" aria-hidden="true" /> error</li>
      <li><Line tone="positive" width={2.2} /> adds</li>
      <li><Line tone="negative" width={2.2} dash="4 3" /> subtracts</li>
      <li>share of inputs {SHARES.map((share) => <span key={share}><Line tone="soft" width={linkWidth(share)} /> {percent(share)} </span>)}</li>
    </ul>
  );
}

function Line({ tone, width, dash }: { tone: string; width: number; dash?: string }) {
  return (
    <svg class={tone} width="20" height="10" viewBox="0 0 20 10" aria-hidden="true">
      <path d="M0 5H20" fill="none" stroke="currentColor" stroke-width={width} stroke-dasharray={dash} />
    </svg>
  );
}
