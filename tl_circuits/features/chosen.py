"""Which features are meant: those of a graph, some that are named, or all."""

from collections.abc import Sequence
from typing import Any, TypeAlias

from tl_circuits.errors import SettingError, TLCircuitsError
from tl_circuits.graph import AttributionGraph
from tl_circuits.graph.asked import whole
from tl_circuits.nodes import Feature
from tl_circuits.transcoder import CrossLayerTranscoder

Chosen: TypeAlias = AttributionGraph | Sequence[Feature | tuple[int, int] | str] | None
"""A graph, whose features are meant; features by (layer, index) or name, of which the position does not matter."""

ADVICE = "give a graph, or a list such as [(2, 623), 'L2/623@-1']"


def chosen(features: Chosen, transcoder: CrossLayerTranscoder | None = None) -> list[tuple[int, int]]:
    """The features by (layer, index), each once, in order. Raises `SettingError` for those the transcoder lacks."""
    if features is None:
        assert transcoder is not None
        return [(layer, index) for layer, n in enumerate(transcoder.n_features) for index in range(n)]
    if isinstance(features, AttributionGraph):
        found = {(feature.layer, feature.index) for feature in features.nodes.features()}
    elif isinstance(features, Sequence) and not isinstance(features, str | Feature):
        found = {key(feature) for feature in features}
    else:
        raise SettingError(f"features={features!r:.80}: {ADVICE}.")
    if not found:
        raise SettingError(f"features={features!r:.80} names no feature: {ADVICE}.")
    sizes = () if transcoder is None else transcoder.n_features
    for layer, index in found:
        if sizes and not (0 <= layer < len(sizes) and 0 <= index < sizes[layer]):
            raise SettingError(
                f"The transcoder has no feature L{layer}/{index}: it has {len(sizes)} layers, of "
                f"{', '.join(map(str, sorted(set(sizes))))} features. Name those that it has."
            )
    return sorted(found)


def key(feature: Any) -> tuple[int, int]:
    """(layer, index) of a feature, which may be written `L2/623` or `L2/623@-1`. Raises `SettingError`."""
    if isinstance(feature, str):
        try:
            feature = Feature.parse(feature if "@" in feature else f"{feature}@0")
        except TLCircuitsError as error:
            raise SettingError(f"{feature!r:.80} names no feature: write it as L2/623, or L2/623@-1.") from error
    if isinstance(feature, Feature):
        feature = (feature.layer, feature.index)
    numbers = [whole(part) for part in feature] if isinstance(feature, tuple) else []
    match numbers:
        case [int(layer), int(index)]:
            return layer, index
        case _:
            raise SettingError(f"{feature!r:.80} names no feature: {ADVICE}.")
