// What the graph is drawn with: a canvas, or the same calls written down as SVG.

export type Pen = Pick<
  CanvasRenderingContext2D,
  | "fillStyle" | "strokeStyle" | "lineWidth" | "globalAlpha" | "font" | "textAlign" | "textBaseline"
  | "beginPath" | "moveTo" | "lineTo" | "bezierCurveTo" | "arc" | "rect" | "closePath" | "fill" | "stroke"
  | "fillRect" | "fillText" | "setLineDash" | "measureText"
>;

const ANCHOR: Record<string, string> = { left: "start", start: "start", center: "middle", right: "end", end: "end" };
const BASELINE: Record<string, string> = { middle: "central", top: "hanging", bottom: "text-after-edge", alphabetic: "auto" };

export class SvgPen implements Pen {
  fillStyle: Pen["fillStyle"] = "#000";
  strokeStyle: Pen["strokeStyle"] = "#000";
  lineWidth = 1;
  globalAlpha = 1;
  font = "12px sans-serif";
  textAlign: CanvasTextAlign = "left";
  textBaseline: CanvasTextBaseline = "alphabetic";
  private path: string[] = [];
  private dash: number[] = [];
  private readonly marks: string[] = [];

  constructor(private readonly ruler: Pick<CanvasRenderingContext2D, "measureText" | "font">) {}

  beginPath(): void {
    this.path = [];
  }
  moveTo(x: number, y: number): void {
    this.path.push(`M${short(x)} ${short(y)}`);
  }
  lineTo(x: number, y: number): void {
    this.path.push(`L${short(x)} ${short(y)}`);
  }
  bezierCurveTo(...at: [number, number, number, number, number, number]): void {
    this.path.push(`C${at.map(short).join(" ")}`);
  }
  arc(x: number, y: number, radius: number): void {
    const r = short(radius);
    this.path.push(`M${short(x - radius)} ${short(y)}a${r} ${r} 0 1 0 ${short(2 * radius)} 0a${r} ${r} 0 1 0 ${short(-2 * radius)} 0`);
  }
  rect(x: number, y: number, width: number, height: number): void {
    this.path.push(`M${short(x)} ${short(y)}h${short(width)}v${short(height)}h${short(-width)}z`);
  }
  closePath(): void {
    this.path.push("z");
  }
  fill(): void {
    this.mark(`fill="${escaped(String(this.fillStyle))}"`);
  }
  stroke(): void {
    const dash = this.dash.length ? ` stroke-dasharray="${this.dash.join(" ")}"` : "";
    this.mark(`fill="none" stroke="${escaped(String(this.strokeStyle))}" stroke-width="${short(this.lineWidth)}"${dash}`);
  }
  fillRect(x: number, y: number, width: number, height: number): void {
    this.beginPath();
    this.rect(x, y, width, height);
    this.fill();
  }
  fillText(text: string, x: number, y: number): void {
    const [, size, family] = /([\d.]+)px (.*)$/.exec(this.font) ?? ["", "12", "sans-serif"];
    const weight = /^(bold|\d{3}) /.exec(this.font)?.[1];
    this.marks.push(
      `<text x="${short(x)}" y="${short(y)}" fill="${escaped(String(this.fillStyle))}"${this.alpha()} font-size="${size}" font-family="${escaped(family)}"` +
        `${weight ? ` font-weight="${weight}"` : ""} text-anchor="${ANCHOR[this.textAlign]}" dominant-baseline="${BASELINE[this.textBaseline]}">${escaped(text)}</text>`,
    );
  }
  setLineDash(dash: number[]): void {
    this.dash = dash;
  }
  measureText(text: string): TextMetrics {
    this.ruler.font = this.font;
    return this.ruler.measureText(text);
  }

  document(width: number, height: number, title: string): string {
    const size = `width="${short(width)}" height="${short(height)}" viewBox="0 0 ${short(width)} ${short(height)}"`;
    return `<svg xmlns="http://www.w3.org/2000/svg" ${size}>\n<title>${escaped(title)}</title>\n${this.marks.join("\n")}\n</svg>\n`;
  }

  private mark(paint: string): void {
    this.marks.push(`<path d="${this.path.join("")}" ${paint}${this.alpha()}/>`);
  }

  private alpha(): string {
    return this.globalAlpha < 1 ? ` opacity="${short(this.globalAlpha)}"` : "";
  }
}

function short(value: number): number {
  return Math.round(value * 100) / 100;
}

/** Text for XML: without what XML forbids, and with what it reads as markup written out. */
export function escaped(text: string): string {
  return text
    .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/"/g, "&quot;");
}
