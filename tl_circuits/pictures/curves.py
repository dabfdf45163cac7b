"""Circuits of several units in one picture: how much of the behaviour is there, by size."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from tl_circuits.comparison import CircuitCurve
from tl_circuits.errors import SettingError
from tl_circuits.pictures.canvas import INK, LINE, SOFT, drawn, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The colours of Okabe and Ito that stand out on white, which every eye tells apart, and marks for prints without any.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKS = "os^DvPX*"
_TOLD = ("task", "scorer", "errors", "attention", "found_on")
_MOST = 48
_MODEL: Any = {"color": INK, "linewidth": 0.9, "linestyle": (0, (6, 3))}


def plot_curves(
    curves: "CircuitCurve | Sequence[CircuitCurve] | Mapping[str, CircuitCurve]",
    ax: "Axes | None" = None,
    path: str | Path | None = None,
) -> "Axes":
    """Plot the faithfulness of circuits by their size, of several curves side by side, and dotted their completeness.

    `curves` are what `tlc.circuit_curve`, `graph_curve` or `edge_curve` returned. Each is named by its basis, and by
    task, scorer, errors, attention and what it was found on where the curves differ in these; or give names of your
    own, as {"seed 0": curve}. Sizes are on the axis of log(1 + units), which areas such as `cpr` are over; the line at
    1 is the model. The legend stands beside the axes: give figures of your own layout="constrained", so that there is
    room for it. Drawn, written and returned as by `plot`. Raises `SettingError` for no curves, for what are none and
    for several of one name, and what `plot` raises.
    """
    named = _named(curves)
    first = next(iter(named.values()))
    alike = [name for name in _shared(list(named.values())) if (name, first.attention) != ("attention", "running")]
    title, labels = _told(first, alike), [_label(name) for name in named]

    def draw(axes: "Axes") -> None:
        axes.axhline(1, zorder=1, **_MODEL)
        axes.axhline(0, color=LINE, linewidth=0.9, zorder=1)
        for at, (label, curve) in enumerate(zip(labels, named.values(), strict=True)):
            colour, mark = _COLOURS[at % len(_COLOURS)], _MARKS[at % len(_MARKS)]
            where = [1 + size for size in curve.sizes]
            axes.plot(where, curve.faithfulness.tolist(), color=colour, marker=mark, ms=4, lw=1.5, label=label)
            axes.plot(where, curve.completeness.tolist(), color=colour, linestyle=":", linewidth=1.1)
        _scale(axes, max(curve.sizes[-1] for curve in named.values()))
        axes.set_ylabel("share of the behaviour", fontsize=9, color=SOFT)
        axes.set_title(title, fontsize=9, color=SOFT, loc="left")
        _legend(axes)

    lines = [line for label in labels for line in label.splitlines()]
    # matplotlib cannot write pictures of any size.
    size = (5.4 + 0.075 * max(26, *map(len, lines)), min(max(3.4, 1.5 + 0.2 * len(lines)), 60.0))
    return drawn(draw, ax, path, size)


def _scale(axes: "Axes", most: int) -> None:
    """Sizes on log(1 + units), each named by its units: so that the empty circuit stands there too."""
    axes.set_xscale("log", base=2)
    step = 1 if most <= 16 else 2
    sizes = [0, *(2**power for power in range(0, most.bit_length(), step))]
    axes.set_xticks([1 + size for size in sizes], [f"{size:,}" for size in sizes])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("units in the circuit, on log(1 + units)", fontsize=9, color=SOFT)
    axes.tick_params(length=0, colors=INK, labelsize=8)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _legend(axes: "Axes") -> None:
    """Beside the axes, where it hides no curve."""
    from matplotlib.lines import Line2D

    lines, names = axes.get_legend_handles_labels()
    styles = [{"color": SOFT, "linewidth": 1.5}, {"color": SOFT, "linewidth": 1.1, "linestyle": ":"}, _MODEL]
    axes.legend(
        [*lines, *(Line2D([], [], **style) for style in styles)],
        [*names, "circuit (faithfulness)", "all but it (completeness)", "the model"],
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
    )


def _named(given: object) -> dict[str, CircuitCurve]:
    if isinstance(given, CircuitCurve):
        given = [given]
    if not isinstance(given, Mapping | Sequence) or isinstance(given, str) or not len(given):
        raise SettingError(f"{given!r:.80} holds no curves: give what tlc.circuit_curve returned, or a list of it.")
    curves = list(given.values()) if isinstance(given, Mapping) else list(given)
    wrong = [curve for curve in curves if not isinstance(curve, CircuitCurve)]
    if wrong:
        raise SettingError(
            f"{wrong[0]!r:.80} is no curve ({len(wrong)} of {len(curves)} are none): give what tlc.circuit_curve "
            "returned, or several of them in a list."
        )
    differ = ("basis", *(name for name in _TOLD if name not in _shared(curves)))
    names = (
        [plain(str(name), _MOST) for name in given]
        if isinstance(given, Mapping)
        else [_told(c, differ) for c in curves]
    )
    again = next((name for name in names if names.count(name) > 1), None)
    if again is not None:
        raise SettingError(
            f"{names.count(again)} of {len(curves)} curves would be named {again!r}, and nobody could tell them "
            f"apart: give them names of their own, of {_MOST} letters at most, as {{'seed 0': curve}}."
        )
    return dict(zip(names, curves, strict=True))


def _shared(curves: Sequence[CircuitCurve]) -> tuple[str, ...]:
    """In what all are alike."""
    return tuple(name for name in _TOLD if len({getattr(curve, name) for curve in curves}) == 1)


def _told(curve: CircuitCurve, names: Sequence[str]) -> str:
    """A curve by these of its settings, as it can stand in a picture."""
    says = {"errors": "errors {}", "attention": "attention {}", "found_on": "one circuit, found on {}"}
    values = {name: getattr(curve, name) for name in names}
    return ", ".join(says.get(name, "{}").format(plain(str(v), 32)) for name, v in values.items() if v is not None)


def _label(name: str) -> str:
    # matplotlib leaves lines out of the legend whose names begin with an underscore.
    return f"{' ' if name.startswith('_') else ''}{fill(name, _MOST)}"
