"""Features that people put together in a viewer, from the JSON that it or `AttributionGraph.to_json` writes."""

from pathlib import Path

from tl_circuits.graph.asked import file_name
from tl_circuits.graph.viewer_file import ViewerFile
from tl_circuits.nodes import Feature


def load_supernodes(path: str | Path) -> dict[str, tuple[Feature, ...]]:
    """The supernodes of a graph's JSON by label, and what is pinned outside of them, each feature by its own name.

    Reads what `AttributionGraph.to_json`, circuit-tracer and Neuronpedia write, pins and supernodes as lists or as the
    texts that circuit-tracer's viewer saves. `tlc.Intervention(load_supernodes(path)["Texas"], scale=0)` acts on one.
    Tokens, errors and outputs among them are left out, since they are no features; supernodes of one label are one.
    Raises `FileError` for what is no such file, and for members that the graph does not hold.
    """
    file = ViewerFile.of(file_name(path))
    found: dict[str, tuple[Feature, ...]] = {}
    for label, members in file.supernodes():
        found[label] = tuple(dict.fromkeys((*found.get(label, ()), *file.features(members))))
    grouped = {feature for features in found.values() for feature in features}
    alone = [feature for feature in file.features(file.pinned()) if feature not in grouped]
    return {label: features for label, features in found.items() if features} | {str(one): (one,) for one in alone}
