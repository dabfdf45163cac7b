// The colours of the page's style sheet, for what is drawn rather than styled.

export interface Palette {
  paper: string;
  band: string;
  ink: string;
  soft: string;
  line: string;
  positive: string;
  negative: string;
  accent: string;
  halo: string;
  feature: string;
  font: string;
}

export function palette(): Palette {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim() || "#888";
  return {
    paper: colour("paper"), band: colour("band"), ink: colour("ink"), soft: colour("soft"), line: colour("line"),
    positive: colour("positive"), negative: colour("negative"), accent: colour("accent"), halo: colour("halo"),
    feature: colour("feature"), font: style.getPropertyValue("--font").trim() || "sans-serif",
  };
}
