// Light, dark, or as the system says. Nothing is kept beyond the page: a frame may not store.

import { signal } from "@preact/signals";
import { repaint } from "./graph_pane.tsx";

export const THEMES = ["auto", "light", "dark"] as const;
export const theme = signal<(typeof THEMES)[number]>("auto");

export function cycleTheme(): void {
  setTheme(THEMES[(THEMES.indexOf(theme.value) + 1) % THEMES.length]);
}

export function setTheme(to: (typeof THEMES)[number]): void {
  theme.value = to;
  apply();
}

/** From the start, before anything is drawn: the style sheet has one palette for each of light and dark. */
export function followSystem(): void {
  for (const query of ["(prefers-color-scheme: dark)", "print"]) matchMedia(query).addEventListener("change", apply);
  apply();
}

function apply(): void {
  const system = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  document.documentElement.dataset["theme"] = theme.value === "auto" ? system : theme.value;
  repaint.value++;
}
