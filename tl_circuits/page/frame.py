"""A graph in a notebook, or in the browser where there is none."""

import sys
import webbrowser
from html import escape
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import number
from tl_circuits.page.document import document, save_page

SANDBOX = "allow-scripts allow-downloads allow-popups allow-modals"


class Frame:
    """A page within a notebook's output: a frame that holds it whole, and can reach nothing of the notebook."""

    def __init__(self, page: str, height: int) -> None:
        self._page, self._height = page, height

    def _repr_html_(self) -> str:
        style = f"width:100%;height:{self._height}px;border:1px solid #8886;border-radius:8px"
        page = escape(self._page)
        return f'<iframe title="Attribution graph" sandbox="{SANDBOX}" style="{style}" srcdoc="{page}"></iframe>'

    def __repr__(self) -> str:
        return f"<a page of {len(self._page)} characters; tlc.save_page writes it to a file>"


def show(graph: AttributionGraph, *, height: int = 820, **page: Any) -> None:
    """Show the graph: in a notebook below the cell, elsewhere as a temporary file in the browser.

    `height` is in pixels; further settings are those of `save_page`. What a notebook shows is kept in it, whole: some
    hundred kilobytes, or as many as the file that `save_page` would write. Raises what `save_page` raises.
    """
    height = number("show", "height", height)
    if _in_notebook():
        from IPython.display import display

        display(Frame(document(graph, **page), height))
        return
    file = save_page(graph, Path(mkdtemp(prefix="tl_circuits_"), "graph.html"), **page)
    webbrowser.open(file.as_uri())


def _in_notebook() -> bool:
    # IPython is there if it runs; a terminal's IPython has no kernel.
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None
