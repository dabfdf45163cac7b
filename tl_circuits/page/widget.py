"""The page in a notebook, with its kernel behind it."""

from typing import TYPE_CHECKING, Any

from tl_circuits.errors import SettingError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import number
from tl_circuits.replacement import LocalReplacementModel

if TYPE_CHECKING:
    from tl_circuits.page.kernel import GraphWidget


def widget(
    graph: AttributionGraph, local: LocalReplacementModel | None = None, *, height: int = 820, **page: Any
) -> "GraphWidget":
    """The graph as a widget for Jupyter, VS Code, Colab and marimo: what is done on the page is done in the kernel too.

    `.pins`, `.supernodes` and `.labels` follow the page and can be set, `.graph` has the labels. With `local`, the
    prompt's local replacement model, features can be scaled from the page; `.results` has what `tlc.intervene`
    returned. `height` is in pixels; further settings are those of `save_page`. `show` needs no extra and no kernel.

    Raises `SettingError` without anywidget, `GraphError` where the graph is not of this prompt and model, and what
    `save_page` raises.
    """
    height = number("widget", "height", height)
    try:
        from tl_circuits.page.kernel import GraphWidget
    except ImportError as error:
        raise SettingError(
            f"A widget needs anywidget, which is not installed ({error}): pip install 'tl-circuits[widget]'. tlc.show "
            "shows the same page, without a way back."
        ) from error
    return GraphWidget(graph, local, height, page)
