"""`tl-circuits cards`: what features fire on, read from text, or fetched where somebody has read it already."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tl_circuits.options import (
    DEMO,
    AsJson,
    ClassName,
    Dtype,
    Gigabytes,
    ModelClass,
    ModelName,
    Plt,
    Precision,
    TranscoderName,
    VariantName,
    check_choice,
    in_bytes,
    operand_range,
)
from tl_circuits.terminal import check_place, say, show, working

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tl_circuits.features import FeatureCards
    from tl_circuits.features.chosen import Chosen
    from tl_circuits.features.operands import Operands
    from tl_circuits.hooks import Model
    from tl_circuits.transcoder import CrossLayerTranscoder

FIRST_LABELS = 8


@dataclass(frozen=True, eq=False)
class CardsReport:
    """Cards, and the files that they were written into, by what these are."""

    cards: "FeatureCards"
    files: Mapping[str, Path]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        cards = self.cards
        layers = Counter(layer for layer, _ in cards)
        return {
            "cards": len(cards),
            "layers": {str(layer): layers[layer] for layer in sorted(layers)},
            "labels": len(cards.table.labels),
            "never_active": self.never_active,
            "n_tokens": cards.made_by.get("n_tokens"),
            "made_by": dict(cards.made_by),
            "files": {what: str(path) for what, path in self.files.items()},
        }

    @property
    def never_active(self) -> int | None:
        """How many features were active on no token of the stream; None where the cards do not say."""
        density = self.cards.table.columns["density"]
        known = density[~density.isnan()]
        return int((known == 0).sum()) if len(known) else None

    def __rich__(self) -> "RenderableType":
        from rich.console import Group
        from rich.text import Text

        from tl_circuits.graph.report import columns, section, visible

        plain = self.to_dict()
        layers = ", ".join(f"{n} of layer {layer}" for layer, n in plain["layers"].items())
        rows = [("cards", Text(f"{plain['cards']}: {layers}"))]
        if plain["n_tokens"] is not None:
            rows.append(("read", Text(f"{plain['n_tokens']:,} tokens")))
        if plain["never_active"] is not None:
            rows.append(("never active", Text(str(plain["never_active"]))))
        rows.append(("labels", Text(str(plain["labels"]))))
        some = list(self.cards.labels().items())[:FIRST_LABELS]
        named = [(f"L{layer}/{index}", Text(visible(label), overflow="fold")) for (layer, index), label in some]
        files = [(what, Text(visible(path), overflow="fold")) for what, path in self.files.items()]
        parts = [section("Feature cards", columns(*rows))]
        parts += [section(f"Labels ({len(some)} of {plain['labels']})", columns(*named))] if named else []
        return Group(*parts, section("Files", columns(*files)))


_Out = Annotated[Path, typer.Argument(metavar="OUT", help="The file of cards; tlc.load_cards reads it.")]
_Data = Annotated[
    Path | None, typer.Option(help="Text to read: a .txt file, one prompt a line, or .jsonl. The demo has its own.")
]
_Dataset = Annotated[
    str | None, typer.Option(help="In place of --data: a data set by the name or folder that `datasets` takes.")
]
_Split = Annotated[str, typer.Option(help="With --dataset, which part of it.")]
_Source = Annotated[
    str | None, typer.Option("--from", help="Read no text: cards that exist, of a release, repository or file.")
]
_Graph = Annotated[Path | None, typer.Option(help="Only the features of this graph.")]
_Feature = Annotated[
    list[str] | None, typer.Option("--feature", "-f", help="Only this feature, such as L2/623; repeatable.")
]
_MaxPrompts = Annotated[int | None, typer.Option(min=1, help="Stop after so many prompts.")]
_Top = Annotated[int, typer.Option(min=0, help="How many of the strongest examples to keep.")]
_Operands = Annotated[str | None, typer.Option(help="Plot features on prompts such as '{a}+{b}='.")]
_Operand = Annotated[str, typer.Option("--operand-range", help="With --operands, the first and last number.")]
_Labels = Annotated[Path | None, typer.Option(help="Labels of features, as a page wrote them.")]
_SharedLabels = Annotated[
    bool, typer.Option("--shared-labels", help="Name what has no label by the token that its examples share.")
]
_Public = Annotated[
    Path | None, typer.Option(help="Also write them into this folder as other people's viewers read them.")
]
_Unpacked = Annotated[bool, typer.Option("--unpacked", help="With --public, a JSON file for each feature.")]
_Seed = Annotated[int, typer.Option(min=0, help="What examples are drawn with.")]


def cards_command(
    out: _Out,
    data: _Data = None,
    dataset: _Dataset = None,
    split: _Split = "train",
    source: _Source = None,
    graph: _Graph = None,
    feature: _Feature = None,
    max_prompts: _MaxPrompts = None,
    top: _Top = 12,
    operands: _Operands = None,
    operand: _Operand = "0,99",
    labels: _Labels = None,
    shared_labels: _SharedLabels = False,
    public: _Public = None,
    unpacked: _Unpacked = False,
    model: ModelName = DEMO,
    transcoder: TranscoderName = None,
    variant: VariantName = None,
    plt: Plt = False,
    model_class: ClassName = ModelClass.bridge,
    dtype: Dtype = Precision.float32,
    seed: _Seed = 0,
    memory_budget: Gigabytes = None,
    as_json: AsJson = False,
) -> None:
    """Say of each feature what it fires on in a stream of text, what it makes likelier, and what it reads.

    One pass over the text, in bounded memory, with a bar of progress on a terminal. With --from nothing is read but
    cards that exist already.
    """
    _check(model, data, dataset, source, graph, feature)
    numbers = operand_range(operand)
    if source is None:
        check_choice(model, transcoder, variant, plt)
    with working():
        check_place(out)
        wanted = _wanted(graph, feature)
        if source is not None:
            from tl_circuits.features import load_cards

            cards = load_cards(source, features=wanted)
        else:
            from tl_circuits.features import feature_cards

            # What is wrong with the text is told before a model is loaded for it.
            texts = _texts(data, dataset, split, max_prompts)
            asked = {"features": wanted, "operands": _grid(operands, numbers), "top": top, "seed": seed}
            say(f"loading {model}")
            borrowed, found = _loaded(model, transcoder, variant, plt, model_class, dtype)
            cards = feature_cards(borrowed, found, texts, memory_budget=in_bytes(memory_budget), **asked)
        report = CardsReport(_labelled(cards, labels, shared_labels), _files(out, public))
        _write(report.cards, out, public, unpacked)
    show(report, as_json)


def _loaded(
    model: str, transcoder: str | None, variant: str | None, plt: bool, model_class: ModelClass, dtype: Precision
) -> "tuple[Model, CrossLayerTranscoder]":
    import torch

    from tl_circuits.zoo.named import load

    shipped, parameters = "plt" if plt else "clt", getattr(torch, dtype.value)
    return load(model, transcoder, variant=variant, shipped=shipped, kind=model_class.value, dtype=parameters)


def _check(
    model: str, data: Path | None, dataset: str | None, source: str | None, graph: Path | None,
    feature: Sequence[str] | None,
) -> None:  # fmt: skip
    given = {"--data": data, "--dataset": dataset, "--from": source}
    several = [name for name, value in given.items() if value is not None]
    if len(several) > 1:
        raise typer.BadParameter(f"{' and '.join(several)} name what to read twice: give one of them.")
    if not several and model != DEMO:
        raise typer.BadParameter(
            f"{model!r} brings no text: give a file with --data, a data set with --dataset, or cards that exist with "
            "--from.",
            param_hint="'--data'",
        )
    if graph is not None and feature:
        raise typer.BadParameter("--graph and --feature both say which features: give one of them.")


def _wanted(graph: Path | None, feature: Sequence[str] | None) -> "Chosen":
    if graph is None:
        return feature or None
    from tl_circuits.graph import load_graph

    return load_graph(graph)


def _grid(operands: str | None, numbers: range) -> "Operands | None":
    from tl_circuits.features.operands import Operands

    return None if operands is None else Operands(operands, numbers, numbers)


def _texts(data: Path | None, dataset: str | None, split: str, most: int | None) -> Any:
    if dataset is not None:
        from tl_circuits.harvest.dataset import streamed

        found = streamed(dataset, split)
        return found if most is None else found.take(most)
    if data is None:
        from tl_circuits.zoo.cards import world_texts
        from tl_circuits.zoo.world import world

        return world_texts(world())[:most]
    from tl_circuits.attribution.prompts import read_prompts

    return list(islice(read_prompts(data, corpus=True), most))


def _labelled(cards: "FeatureCards", labels: Path | None, shared: bool) -> "FeatureCards":
    if shared:
        from tl_circuits.features import shared_tokens

        own = cards.labels()
        cards = cards.with_labels(shared_tokens).with_labels(own)
    if labels is not None:
        from tl_circuits.page import load_labels

        cards = cards.with_labels(load_labels(labels))
    return cards


def _files(out: Path, public: Path | None) -> dict[str, Path]:
    return {"cards": out} if public is None else {"cards": out, "public": public}


def _write(cards: "FeatureCards", out: Path, public: Path | None, unpacked: bool) -> None:
    cards.save(out)
    if public is not None:
        cards.save_public(public, packed=not unpacked)
