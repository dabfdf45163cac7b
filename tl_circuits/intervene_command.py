"""`tl-circuits intervene`: features of one prompt changed from a shell."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tl_circuits.errors import FileError
from tl_circuits.options import (
    DEMO,
    AsJson,
    ClassName,
    Dtype,
    FeatureNames,
    ModelClass,
    ModelName,
    Patterns,
    Plt,
    Precision,
    SupernodeFile,
    SupernodeNames,
    TranscoderName,
    VariantName,
    Way,
    check_choice,
    layer_range,
)
from tl_circuits.terminal import say, show, working

if TYPE_CHECKING:
    from tl_circuits.nodes import Feature


def intervene_command(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to intervene on.")],
    feature: FeatureNames = None,
    supernodes: SupernodeFile = None,
    supernode: SupernodeNames = None,
    scale: Annotated[float | None, typer.Option(help="Activations times this: 0 ablates, -1 flips.")] = None,
    value: Annotated[float | None, typer.Option("--set", help="Activations become this.")] = None,
    add: Annotated[float | None, typer.Option(help="Activations plus this.")] = None,
    mode: Annotated[Way, typer.Option(help="What runs on; see the documentation.")] = Way.constrained,
    layers: Annotated[str | None, typer.Option(help="The first and last layer that are held, say 3,6.")] = None,
    attention: Annotated[Patterns, typer.Option(help="Hold attention patterns, or let them run.")] = Patterns.frozen,
    generate: Annotated[int | None, typer.Option(min=1, help="Go on for so many tokens, before and after.")] = None,
    model: ModelName = DEMO,
    transcoder: TranscoderName = None,
    variant: VariantName = None,
    plt: Plt = False,
    model_class: ClassName = ModelClass.bridge,
    dtype: Dtype = Precision.float32,
    as_json: AsJson = False,
) -> None:
    """Change features of one prompt, and say what becomes of the likely next tokens and of other features."""
    check_choice(model, transcoder, variant, plt)
    given = layer_range(layers)
    with working():
        import torch

        from tl_circuits.intervention import generate as go_on
        from tl_circuits.intervention import intervene
        from tl_circuits.intervention.report import InterventionReport
        from tl_circuits.nodes import Intervention
        from tl_circuits.replacement import localize
        from tl_circuits.zoo.named import load

        features = [*(feature or []), *_in_supernodes(supernodes, supernode)]
        done = [Intervention(features, scale, value=value, add=add)]
        say(f"loading {model}")
        shipped, parameters = "plt" if plt else "clt", getattr(torch, dtype.value)
        borrowed, found = load(
            model, transcoder, variant=variant, shipped=shipped, kind=model_class.value, dtype=parameters
        )
        local = localize(borrowed, found, prompt)
        result = intervene(local, done, given, attention.value, mode.value)
        continuations = None
        if generate is not None:
            how = {"layers": given, "attention": attention.value, "mode": mode.value}
            continuations = (go_on(local, [], generate, **how), go_on(local, done, generate, **how))
        report = InterventionReport(result, continuations)
    show(report, as_json)


def _in_supernodes(file: Path | None, names: list[str] | None) -> "list[Feature]":
    if file is None:
        if names:
            raise typer.BadParameter("it is one of a file's: name that too.", param_hint="'--supernode'")
        return []
    from tl_circuits.graph.supernodes import load_supernodes

    known = load_supernodes(file)
    for name in names or ():
        if name not in known:
            raise FileError(f"'{file}' has no supernode {name!r}: it has {', '.join(map(repr, known)) or 'none'}.")
    if not known:
        raise FileError(f"'{file}' has no supernodes and no pins: make some, or name features by --feature.")
    return [feature for name in names or known for feature in known[name]]
