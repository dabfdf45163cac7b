"""The page as a widget: pins, supernodes and labels live in the kernel, and interventions are asked from the page.

Loaded only where a widget is made, since anywidget is an extra.
"""

from collections.abc import Mapping
from typing import Any

import anywidget
import traitlets

from tl_circuits.errors import SettingError, TLCircuitsError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.tables import unique_names
from tl_circuits.graph.views import NodeName, row_of
from tl_circuits.intervention import intervene
from tl_circuits.intervention.graph_of import check_same
from tl_circuits.nodes import Feature, Intervention
from tl_circuits.page.document import Host, document
from tl_circuits.page.frame import SANDBOX
from tl_circuits.page.kept import labels_in, sound_work
from tl_circuits.page.runs import runs_of
from tl_circuits.replacement import LocalReplacementModel

_FRAME = """
export default {
  render({ model, el }) {
    const frame = document.createElement("iframe");
    frame.title = "Attribution graph";
    frame.setAttribute("sandbox", "%s");
    frame.style.cssText = "width:100%%;border:1px solid #8886;border-radius:8px";
    frame.style.height = model.get("height") + "px";
    const tell = (message) => frame.contentWindow?.postMessage({ tl_circuits: 1, ...message }, "*");
    const hear = ({ source, data }) => {
      if (source !== frame.contentWindow || data?.tl_circuits !== 1) return;
      if (data.ready) tell({ work: model.get("work"), runs: model.get("runs") });
      if (data.work) model.set("work", data.work);
      if (data.ask) model.set("asked", { ...data.ask, at: Date.now() });
      model.save_changes();
    };
    const names = ["work", "runs", "problem"];
    const told = Object.fromEntries(names.map((name) => [name, () => tell({ [name]: model.get(name) })]));
    addEventListener("message", hear);
    for (const name in told) model.on("change:" + name, told[name]);
    frame.srcdoc = model.get("page");
    el.append(frame);
    return () => {
      removeEventListener("message", hear);
      for (const name in told) model.off("change:" + name, told[name]);
    };
  },
};
"""


class GraphWidget(anywidget.AnyWidget):
    """A page in a notebook that knows its kernel. Made by `tlc.widget`.

    `pins`, `supernodes` and `labels` are what a person did there, and can be set; `results` are what the interventions
    that were asked there returned, by name. `graph` has the labels.
    """

    _esm = _FRAME % SANDBOX
    page = traitlets.Unicode().tag(sync=True)
    height = traitlets.Int(820).tag(sync=True)
    work = traitlets.Dict().tag(sync=True)
    runs = traitlets.List().tag(sync=True)
    asked = traitlets.Dict().tag(sync=True)
    problem = traitlets.Unicode().tag(sync=True)

    def __init__(
        self, graph: AttributionGraph, local: LocalReplacementModel | None, height: int, page: Mapping[str, Any]
    ) -> None:
        if local is not None:
            check_same(graph, local, whole_graph=False)
        self._graph, self._local = graph, local
        self.results: dict[str, Any] = {}
        self._sound: dict[str, Any] = {"pins": [], "supernodes": [], "labels": {}}
        text = document(graph, **page, host=Host("widget", acts=local is not None))
        super().__init__(page=text, height=height, work=self._sound)
        if page.get("pinned") or page.get("supernodes"):
            self.supernodes = dict(page.get("supernodes") or {})
            self.pins = [*self.pins, *page.get("pinned", ())]
        if page.get("interventions"):
            self.runs = runs_of(graph, page["interventions"])

    @property
    def graph(self) -> AttributionGraph:
        """The graph with the labels that were given on the page."""
        return self._graph.with_labels(self.labels)

    @property
    def pins(self) -> list[str]:
        """The pinned nodes, as they are written."""
        return list(self.work.get("pins", []))

    @pins.setter
    def pins(self, names: list[NodeName]) -> None:
        self.work = {**self.work, "pins": self._written(names)}

    @property
    def supernodes(self) -> dict[str, list[str]]:
        """Label → nodes, for `save_page`, `subgraph_svg` and `tlc.Intervention`."""
        return {one["label"]: list(one["members"]) for one in self.work.get("supernodes", [])}

    @supernodes.setter
    def supernodes(self, groups: Mapping[str, list[NodeName]]) -> None:
        written = [{"label": label, "members": self._written(names)} for label, names in groups.items() if names]
        pins = dict.fromkeys([*self.pins, *(name for one in written for name in one["members"])])
        self.work = {**self.work, "pins": list(pins), "supernodes": written}

    @property
    def labels(self) -> dict[tuple[int, int], str]:
        """The labels that were given on the page, by (layer, index)."""
        return labels_in(self.work)

    @labels.setter
    def labels(self, labels: Mapping[tuple[int, int], str]) -> None:
        self.work = {**self.work, "labels": {f"{layer}/{index}": text for (layer, index), text in labels.items()}}

    def _written(self, names: list[NodeName]) -> list[str]:
        every = unique_names(self._graph)
        return list(dict.fromkeys(every[row_of(self._graph, name)] for name in names))

    @traitlets.validate("work")
    def _check_work(self, proposal: Any) -> dict[str, Any]:
        # What a page sends is no more trusted than a file; what is none of this graph leaves things as they were.
        try:
            self._sound = sound_work(self._graph, proposal["value"])
        except SettingError as error:
            self.problem = str(error)
        return self._sound

    @traitlets.observe("asked")
    def _run(self, change: Any) -> None:
        try:
            name, features, scale = _asked(change["new"])
            if self._local is None:
                raise SettingError("This widget has no model: tlc.widget(graph, local) runs interventions.")
            result = intervene(self._local, [Intervention(features, scale=scale)])
            self.results = {**self.results, name: result}
            kept = [run for run in self.runs if run["name"] != name]
            self.runs = [*kept, *runs_of(self._graph, {name: result})]
        except TLCircuitsError as error:
            self.problem = str(error)


def _asked(given: Any) -> tuple[str, list[Feature | str], float]:
    match given:
        case {"name": str(name), "features": [str(), *_] as features, "scale": int() | float() as scale} if all(
            isinstance(feature, str) for feature in features
        ):
            return name, list(features), float(scale)
    raise SettingError(f"{given!r:.80} is no intervention: choose features on the page, and a number to scale by.")
