"""What plots are drawn on and in: axes of matplotlib, and colours that tell signs apart in print and to every eye."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_circuits.errors import FileError, SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import file_name
from tl_circuits.graph.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POSITIVE, NEGATIVE = "#1a63b0", "#b34d00"
INK, SOFT, LINE, BAND, FEATURE = "#1a1f27", "#596273", "#dfe3e9", "#f4f6f9", "#b9c7dc"
# Text of a picture stays text, and the same picture the same file.
_SETTINGS: Any = {"svg.fonttype": "none", "pdf.fonttype": 42, "svg.hashsalt": "tl_circuits"}


def drawn(
    draw: Callable[["Axes"], None], ax: "Axes | None", path: str | Path | None, size: tuple[float, float]
) -> "Axes":
    """Draws on these axes, or on new ones of so many inches, and writes their figure where a path is given.

    Raises `SettingError` without matplotlib and for what are no axes, and `FileError` where the file cannot be written.
    """
    file = None if path is None else file_name(path)
    pyplot = _matplotlib()
    if ax is not None and not callable(getattr(ax, "barh", None)):
        raise SettingError(f"ax={ax!r:.80} are no axes: give those of matplotlib's plt.subplots(), or leave it out.")
    axes = ax if ax is not None else _new_axes(pyplot, size, shown=file is None)
    draw(axes)
    if file is not None:
        _write(axes, file)
    return axes


def graph_of(given: object) -> AttributionGraph:
    """Raises `SettingError` for what is no graph."""
    if not isinstance(given, AttributionGraph):
        raise SettingError(f"{given!r:.80} is no graph: give what tlc.trace, attribute or load_graph returned.")
    return given


def _matplotlib() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise SettingError(
            f"Plots are drawn by matplotlib, which is not installed ({error}): pip install 'tl-circuits[plot]'. "
            "tlc.subgraph_svg and tlc.save_page need nothing."
        ) from error
    return pyplot


def _new_axes(pyplot: Any, size: tuple[float, float], *, shown: bool) -> "Axes":
    if shown:
        # Through pyplot, so that a notebook shows it below its cell.
        return pyplot.subplots(figsize=size, layout="constrained")[1]
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained").subplots()


def _write(axes: "Axes", file: Path) -> None:
    import matplotlib

    figure, kind = axes.get_figure(root=True), file.suffix[1:].lower() or "png"
    if figure is None or kind not in figure.canvas.get_supported_filetypes():
        raise FileError(f"'{file}' is of no kind that matplotlib writes: give a name that ends in .png, .pdf or .svg.")
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context(_SETTINGS):
        write_whole(file, lambda part: figure.savefig(part, format=kind, dpi=200, metadata=undated))


def plain(text: str, most: int = 16) -> str:
    """A token or label as it can stand in a picture: visible, short, and no formula."""
    shown = "".join(_visible(letter) for letter in text)
    shown = shown if len(shown) <= most else shown[: most - 1] + "…"
    return shown.replace("$", r"\$")


def _visible(letter: str) -> str:
    named = {"\n": "⏎", "\r": "↵", "\t": "⇥"}
    return named.get(letter) or (letter if letter.isprintable() else "�")
