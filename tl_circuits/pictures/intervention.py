"""What interventions did to the likely next tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import number
from tl_circuits.intervention.result import InterventionResult
from tl_circuits.pictures.canvas import INK, LINE, NEGATIVE, POSITIVE, SOFT, drawn, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LOOKS = ((POSITIVE, ""), (NEGATIVE, "///"), ("#6b2fc4", "..."), ("#3d7a2a", "xxx"), ("#8a6d00", "\\\\\\"))
_BEFORE = "#c3cad6"
_LEAST = 0.005


def plot_intervention(
    results: "InterventionResult | Mapping[str, InterventionResult]",
    ax: "Axes | None" = None,
    path: str | Path | None = None,
    *,
    k: int = 4,
    pos: int = -1,
) -> "Axes":
    """Plot the probabilities of next tokens before and after an intervention, or after several, each by its name.

    `results` are what `tlc.intervene` returned on one prompt. The tokens are the `k` likeliest before and after
    each, as far as they reach 0.5 % there.
    Drawn, written and returned as by `plot`. Raises `SettingError` for what are no results of one prompt and at a
    position outside of it, and what `plot` raises.
    """
    named = _named(results)
    first = next(iter(named.values()))
    tops = [first.top_before(k, pos=pos), *(result.top_after(k, pos=pos) for result in named.values())]
    likely = [token for top in tops for token in top[: number("plot_intervention", "k", k)]]
    texts = {token.id: token.text for token in likely if token.probability >= _LEAST or token is likely[0]}
    rows = {"before": first.logits_before[pos], **{name: result.logits[pos] for name, result in named.items()}}
    chances = {name: torch.softmax(row.double(), -1)[list(texts)].tolist() for name, row in rows.items()}

    def draw(axes: "Axes") -> None:
        height = 0.82 / len(chances)
        for at, (name, values) in enumerate(chances.items()):
            colour, hatch = (_BEFORE, "") if at == 0 else _LOOKS[(at - 1) % len(_LOOKS)]
            places = [row + (at - (len(chances) - 1) / 2) * height for row in range(len(texts))]
            bars = axes.barh(
                places,
                values,
                height=height,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                linewidth=0.5,
                label=plain(name, 40),
            )
            axes.bar_label(bars, labels=[f"{value:.1%}" for value in values], fontsize=7.5, padding=3, color=INK)
        axes.set_yticks(range(len(texts)), [f"“{plain(text)}”" for text in texts.values()], fontsize=9)
        axes.invert_yaxis()
        axes.set_xlim(0, max(1e-9, *(value for values in chances.values() for value in values)) * 1.16)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("probability of the next token", fontsize=9, color=SOFT)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(length=0, colors=INK)
        axes.tick_params(axis="x", labelsize=8)
        axes.margins(y=0.02)
        axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0)
        for side in ("top", "right", "bottom"):
            axes.spines[side].set_visible(False)

    return drawn(draw, ax, path, (6.2, 1.2 + 0.19 * len(texts) * len(chances)))


def _named(results: object) -> dict[str, InterventionResult]:
    given = dict(results) if isinstance(results, Mapping) else {"after": results}
    found = {
        name: result
        for name, result in given.items()
        if isinstance(name, str) and isinstance(result, InterventionResult)
    }
    if not found or len(found) < len(given):
        wrong = next((value for name, value in given.items() if name not in found), results)
        raise SettingError(
            f"{wrong!r:.80} is no result: give what tlc.intervene returned, or several of them as "
            "{'Texas out': result}."
        )
    prompts = {tuple(result.local.prompt.tokens.tolist()) for result in found.values()}
    if len(prompts) > 1:
        raise SettingError(f"These are results of {len(prompts)} prompts: plot those of one prompt together.")
    return found
