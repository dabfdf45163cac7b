import { signal } from "@preact/signals";
import { visible } from "../graph/graph.ts";
import type { Card, Effect, Example, OperandGrid } from "../state/page.ts";
import { Button } from "./button.tsx";
import { count, percent, plain, signed } from "./words.ts";

/** Whether cards are shown whole, or so much of them that connections stay in sight. */
const whole = signal(false);
const FEW = { tokens: 5, read: 4, examples: 3 };
const ALL = { tokens: 12, read: 12, examples: 12 };

/** What is known of a feature beyond the graph. `activation` is that of the node which is selected. */
export function CardPane({ card, activation }: { card: Card; activation: number }) {
  const most = whole.value ? ALL : FEW;
  return (
    <section class="card" aria-label="Feature card">
      {card.histogram && <Bars histogram={card.histogram} card={card} activation={activation} />}
      {(card.top_logits?.length || card.bottom_logits?.length) && (
        <div class="logits">
          <Effects title="Says" effects={(card.top_logits ?? []).slice(0, most.tokens)} />
          <Effects title="Speaks against" effects={(card.bottom_logits ?? []).slice(0, most.tokens)} />
        </div>
      )}
      {!!card.embeddings?.length && (
        <div>
          <h3>Reads the embeddings of</h3>
          <p class="chips">
            {card.embeddings.slice(0, most.read).map(([token, value], at) => (
              <code class="chip" key={at}>{visible(token)}{value !== null && <span>{signed(value)}</span>}</code>
            ))}
          </p>
        </div>
      )}
      {card.operands && <Operands grid={card.operands} />}
      {!!card.examples?.length && (
        <div class="examples">
          <h3>Fires most on</h3>
          {card.examples.slice(0, most.examples).map((example, at) => <Text example={example} most={card.maximum} key={at} />)}
        </div>
      )}
      {whole.value && !!card.intervals?.length && (
        <div class="intervals">
          <h3>Drawn from all its activations</h3>
          {card.intervals.map((interval, at) => (
            <div key={at}>
              <h4>{visible(interval.name)}</h4>
              {interval.examples.map((example, place) => <Text example={example} most={card.maximum} key={place} />)}
            </div>
          ))}
        </div>
      )}
      {(whole.value || hasMore(card)) && <Button quiet onClick={() => (whole.value = !whole.value)}>{whole.value ? "Less of the card" : "More of the card"}</Button>}
    </section>
  );
}

function hasMore(card: Card): boolean {
  const tokens = [card.top_logits, card.bottom_logits].some((found) => (found?.length ?? 0) > FEW.tokens);
  return tokens || (card.embeddings?.length ?? 0) > FEW.read || (card.examples?.length ?? 0) > FEW.examples || !!card.intervals?.length;
}

function Effects({ title, effects }: { title: string; effects: Effect[] }) {
  return (
    <div>
      <h3>{title}</h3>
      <ul>
        {effects.map(([token, value], at) => (
          <li key={at}>
            <code>{visible(token)}</code> {value !== null && <span class={value < 0 ? "negative" : "positive"}>{signed(value)}</span>}
          </li>
        ))}
      </ul>
    </div>
  );
}

function Text({ example, most }: { example: Example; most: number | null | undefined }) {
  const top = Math.max(...(most ? [most] : example.activations), 1e-9);
  return (
    <p class="example">
      {example.tokens.map((token, place) => {
        const value = example.activations[place] ?? 0;
        return <mark key={place} class={place === example.peak ? "peak" : ""} style={{ "--heat": `${Math.round((100 * Math.max(0, value)) / top)}%` }} title={plain(value)}>{visible(token)}</mark>;
      })}
    </p>
  );
}

const WIDTH = 280;
const HEIGHT = 56;

/** How often it is how active, and where this node stands. */
function Bars({ histogram, card, activation }: { histogram: NonNullable<Card["histogram"]>; card: Card; activation: number }) {
  const { low, high, counts } = histogram;
  const most = Math.max(...counts, 1);
  const step = WIDTH / counts.length;
  const here = Math.min(1, Math.max(0, (activation - low) / (high - low)));
  const seen = card.n_tokens ? ` of ${count(card.n_tokens, "token")}` : " of tokens";
  const often = card.density === null || card.density === undefined ? "" : `Active on ${share(card.density)}${seen}`;
  const said = [often, card.maximum ? `at most ${plain(card.maximum)}` : "", Number.isNaN(activation) ? "" : `here ${plain(activation)}`].filter(Boolean).join(", ");
  return (
    <figure class="bars">
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT + 2}`} role="img" aria-label={`Histogram of its activations. ${said}`} preserveAspectRatio="none">
        {counts.map((value, at) => value > 0 && <rect key={at} x={at * step + 0.5} width={Math.max(step - 1, 0.5)} y={HEIGHT - Math.max(1, (HEIGHT * value) / most)} height={Math.max(1, (HEIGHT * value) / most)} />)}
        {!Number.isNaN(activation) && <line x1={here * WIDTH} x2={here * WIDTH} y1="0" y2={HEIGHT} />}
      </svg>
      <figcaption class="where">{said}</figcaption>
    </figure>
  );
}

/** Rare features differ by factors, which `percent` would round away. */
function share(density: number): string {
  return density > 0 && density < 0.001 ? `${(100 * density).toPrecision(2)}%` : percent(density);
}

/** Its activation on prompts such as "36+59=": first operands down, second ones across. */
function Operands({ grid }: { grid: OperandGrid }) {
  const { a, b, most, template } = grid;
  const cells = Uint8Array.from(atob(grid.cells), (letter) => letter.charCodeAt(0));
  const draw = (canvas: HTMLCanvasElement | null) => {
    const context = canvas?.getContext("2d");
    if (!canvas || !context) return;
    context.clearRect(0, 0, b.length, a.length);
    context.fillStyle = getComputedStyle(canvas).color;
    cells.forEach((cell, at) => {
      if (!cell) return;
      context.globalAlpha = cell / 255;
      context.fillRect(at % b.length, Math.floor(at / b.length), 1, 1);
    });
  };
  const name = (event: PointerEvent & { currentTarget: HTMLCanvasElement }) => {
    const { width, height } = event.currentTarget.getBoundingClientRect();
    const row = Math.min(a.length - 1, Math.max(0, Math.floor((event.offsetY / height) * a.length)));
    const column = Math.min(b.length - 1, Math.max(0, Math.floor((event.offsetX / width) * b.length)));
    event.currentTarget.title = `${template.replace("{a}", () => String(a[row])).replace("{b}", () => String(b[column]))} ${plain((cells[row * b.length + column] * most) / 255)}`;
  };
  const active = cells.reduce((sum, cell) => sum + Number(cell > 0), 0);
  const said = `Active on ${active.toLocaleString("en")} of ${cells.length.toLocaleString("en")} prompts “${visible(template)}”, at most ${plain(most)}`;
  return (
    <figure class="operands">
      <h3>Operand plot</h3>
      <canvas width={b.length} height={a.length} role="img" aria-label={said} ref={draw} onPointerMove={name} />
      <figcaption class="where">{said}: a from {a[0]} to {a[a.length - 1]} down, b from {b[0]} to {b[b.length - 1]} across.</figcaption>
    </figure>
  );
}
