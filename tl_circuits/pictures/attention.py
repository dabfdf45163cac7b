"""Where heads look from one token: the attention patterns that a graph's edges between positions run through."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import whole
from tl_circuits.hooks import Tap, installed
from tl_circuits.pictures.canvas import INK, LINE, SOFT, drawn, plain
from tl_circuits.replacement import LocalReplacementModel

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def attention_from(local: LocalReplacementModel, pos: int) -> Float[Tensor, "layer head key"]:
    """The attention patterns of a prompt at one position, over itself and the positions before it, of every layer.

    The model is run once more, and is as it was afterwards.
    """
    seen: dict[Tap, Tensor] = {}

    def keep(tap: Tap, pattern: Tensor) -> None:
        seen[tap] = pattern[0, :, pos, : pos + 1].detach().float().cpu()

    taps = local.sites.patterns
    with torch.no_grad(), installed(local.model, {tap: partial(keep, tap) for tap in taps}):
        local.model(local.prompt.tokens[None])
    return torch.stack([seen[tap] for tap in taps])


def plot_attention(
    local: LocalReplacementModel,
    ax: "Axes | None" = None,
    path: str | Path | None = None,
    *,
    pos: int = -1,
    layers: Sequence[int] | None = None,
) -> "Axes":
    """Plot how much each head attends from one token to each token up to it: a row for each head, by layer.

    A graph holds these patterns at the prompt's values, so what an edge carries from another position to `pos` goes
    through them. Why a head looks there they do not say. `layers` are those to show (default: all). Drawn, written and
    returned as by `plot`. Raises `SettingError` for what is no local replacement model, a position outside of its
    prompt and layers that the model lacks, and what `plot` raises.
    """
    if not isinstance(local, LocalReplacementModel):
        raise SettingError(
            f"{local!r:.80} is no local replacement model: give tlc.localize(model, transcoder, prompt)."
        )
    place, shown = _place(local, pos), _layers(local, layers)
    patterns = attention_from(local, place)[shown].numpy()
    _, n_heads, n_keys = patterns.shape
    rows = [f"L{layer}H{head}" for layer in shown for head in range(n_heads)]
    words = [plain(text.strip() or text, 10) for text in local.prompt.strings[:n_keys]]

    def draw(axes: "Axes") -> None:
        heads = patterns.reshape(-1, n_keys)
        image = axes.imshow(heads, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="none")
        axes.set_xticks(range(n_keys), words, rotation=45, ha="right", rotation_mode="anchor", fontsize=8)
        axes.set_yticks(range(len(rows)), rows, fontsize=7)
        for layer in range(1, len(shown)):
            axes.axhline(layer * n_heads - 0.5, color=LINE, linewidth=1)
        axes.set_title(f"attention from {words[-1]!r} (position {place})", fontsize=9, color=SOFT, loc="left")
        axes.tick_params(length=0, colors=INK)
        for side in axes.spines.values():
            side.set_color(LINE)
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
        bar.ax.tick_params(labelsize=7, colors=INK, length=2)
        bar.outline.set_visible(False)

    return drawn(draw, ax, path, (2.2 + 0.42 * n_keys, 1.4 + 0.17 * len(rows)))


def _place(local: LocalReplacementModel, pos: object) -> int:
    place = whole(pos)
    if place is None or not -local.n_pos <= place < local.n_pos:
        raise SettingError(
            f"pos={pos!r:.40} lies outside the prompt of {local.n_pos} tokens: give one of them, say -1."
        )
    return place % local.n_pos


def _layers(local: LocalReplacementModel, layers: object) -> list[int]:
    if layers is None:
        return list(range(local.n_layers))
    given = [whole(layer) for layer in layers] if isinstance(layers, Sequence) and not isinstance(layers, str) else []
    found = [layer for layer in given if layer is not None and 0 <= layer < local.n_layers]
    if not found or len(found) < len(given):
        raise SettingError(
            f"layers={layers!r:.60}: give a list of layers of the model, which has {local.n_layers}, say "
            f"[0, {local.n_layers - 1}]."
        )
    return found
