"""What the commands take, and how each of it is called and explained."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEMO = "demo"
# The models that ship, each with its transcoders.
SHIPPED = (DEMO, "atlas")


class ModelClass(StrEnum):
    """The classes of TransformerLens that a model can be loaded as."""

    bridge = "bridge"
    hooked = "hooked"


class Layout(StrEnum):
    """The layouts that a transcoder's folder is written in."""

    circuit_tracer = "circuit-tracer"
    saelens = "saelens"


class Precision(StrEnum):
    """The dtypes that a model can be loaded in."""

    float32 = "float32"
    float64 = "float64"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Way(StrEnum):
    """What runs on after an intervention, as `tl_circuits.intervene` calls it."""

    constrained = "constrained"
    iterative = "iterative"
    direct = "direct"
    added = "added"


class Patterns(StrEnum):
    """What becomes of attention patterns."""

    frozen = "frozen"
    free = "free"


def share(value: float | None) -> float | None:
    """A share as it was given, or a usage error."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value:g} is no share: give a number above 0 and at most 1.")
    return value


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output, and nothing else.")]
ModelName = Annotated[
    str, typer.Option("--model", help="A model TransformerLens knows, its folder, 'demo' or 'atlas'.")
]
TranscoderName = Annotated[
    str | None,
    typer.Option(
        "--transcoder", help="A release, a repository or a folder (see 'list'); models that ship bring their own."
    ),
]
VariantName = Annotated[str | None, typer.Option("--variant", help="Which transcoder, where several go by that name.")]
Plt = Annotated[bool, typer.Option("--plt", help="Take the shipped per-layer transcoder, not the CLT.")]
ClassName = Annotated[
    ModelClass, typer.Option("--class", help="TransformerBridge, or HookedTransformer without weight processing.")
]
Dtype = Annotated[Precision, typer.Option("--dtype", help="What to load the model in.")]
TargetNames = Annotated[
    list[str] | None,
    typer.Option(
        "--target", help="A token to explain, or a feature such as L2/120@-1, instead of likely ones; repeatable."
    ),
]
FeatureNames = Annotated[
    list[str] | None,
    typer.Option("--feature", "-f", help="A feature, such as L2/120@-1; repeatable, all are done alike."),
]
SupernodeFile = Annotated[
    Path | None, typer.Option("--supernodes", help="A graph's JSON from a viewer, whose supernodes and pins are meant.")
]
SupernodeNames = Annotated[
    list[str] | None, typer.Option("--supernode", help="Of that file, this supernode; repeatable. Default: all.")
]
MaxTargets = Annotated[int, typer.Option("--max-targets", min=1, help="How many likely tokens to explain at most.")]
Coverage = Annotated[
    float,
    typer.Option("--coverage", callback=share, help="Stop when this share of influence is traced; 1 traces all."),
]
MaxFeatures = Annotated[int | None, typer.Option("--max-features", min=1, help="Trace at most this many features.")]
Seconds = Annotated[
    float | None, typer.Option("--time-budget", min=0.001, help="Stop after so many seconds, with what is traced.")
]
Gigabytes = Annotated[
    float | None,
    typer.Option("--memory-budget", min=1e-6, help="Take at most so many GB; default: half of what is to spare."),
]


def in_bytes(gigabytes: float | None) -> int | None:
    """So many bytes, where any number was given."""
    return None if gigabytes is None else int(gigabytes * 1e9)


def layer_range(text: str | None) -> tuple[int, int] | None:
    """The two layers that a text such as "3,6" names, or a usage error."""
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != 2 or not all(part.strip().isdecimal() and len(part) < 10 for part in parts):
        raise typer.BadParameter(
            f"{text!r} are no layers: give the first and the last, say 3,6.", param_hint="'--layers'"
        )
    return int(parts[0]), int(parts[1])


def operand_range(text: str) -> range:
    """All numbers from the first to the last that a text such as "10,99" names, or a usage error."""
    parts = [part.strip() for part in text.split(",")]
    whole = len(parts) == 2 and all(part.isdecimal() and len(part) < 10 for part in parts)
    if not whole or int(parts[0]) > int(parts[1]):
        raise typer.BadParameter(
            f"{text!r} is no range: give the first and the last number, say 10,99.", param_hint="'--operand-range'"
        )
    return range(int(parts[0]), int(parts[1]) + 1)


def check_choice(model: str, transcoder: str | None, variant: str | None, plt: bool) -> None:
    """A usage error where model and transcoder were not both named, or one says what only the other can have."""
    if model not in SHIPPED and transcoder is None:
        raise typer.BadParameter(
            f"{model!r} brings no transcoder: name a release, a repository or a folder. `tl-circuits list --model "
            f"{model}` shows releases.",
            param_hint="'--transcoder'",
        )
    if variant is not None and transcoder is None:
        raise typer.BadParameter("it is one of a transcoder's: name that too.", param_hint="'--variant'")
    if plt and (model not in SHIPPED or transcoder is not None):
        raise typer.BadParameter(
            "it ships with the demo and the atlas: name one of them and no transcoder, or leave out --plt.",
            param_hint="'--plt'",
        )
