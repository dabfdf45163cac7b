"""The command line: results on standard output, progress and errors on standard error, 0, 1 or 2 as the exit code.

Model libraries are imported inside the commands, so that `--help` answers at once.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import tl_circuits
from tl_circuits.cards_command import cards_command
from tl_circuits.errors import FileError
from tl_circuits.intervene_command import intervene_command
from tl_circuits.options import (
    DEMO,
    AsJson,
    ClassName,
    Coverage,
    Dtype,
    Gigabytes,
    Layout,
    MaxFeatures,
    MaxTargets,
    ModelClass,
    ModelName,
    Plt,
    Precision,
    Seconds,
    TargetNames,
    TranscoderName,
    VariantName,
    check_choice,
    in_bytes,
    share,
)
from tl_circuits.page_command import page_command
from tl_circuits.terminal import Shown, check_place, make_folder, one_line, say, show, working
from tl_circuits.train_command import train_command

if TYPE_CHECKING:
    from tl_circuits.graph import AttributionGraph
    from tl_circuits.graph.report import Output
    from tl_circuits.replacement import LocalReplacementModel

DEMO_PROMPT = "the capital of the state containing Dallas is"
ANOTHER_PROMPT = "the bird of the state containing Oakland is"
# What the demo's JSON keeps, for viewers: the paper's thresholds.
VIEWED = (0.8, 0.98)
TOP_OUTPUTS = 5

# Plain help and usage messages: they are read in narrow terminals and by programs too.
app = typer.Typer(
    help="Circuit tracing with cross-layer transcoders, for TransformerLens and SAELens.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"tl-circuits {tl_circuits.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="The folder for dallas.graph, dallas.html and dallas.json.")] = Path(),
    as_json: AsJson = False,
) -> None:
    """Trace "the capital of the state containing Dallas is" through the small model that ships with the package.

    Prints what the model says next, how well the graph explains it, the features that matter and what they fire on, and
    the strongest paths. No network is asked.
    """
    with working():
        import torch

        from tl_circuits.attribution import attribute
        from tl_circuits.graph.report import Report
        from tl_circuits.page import save_page
        from tl_circuits.replacement import localize
        from tl_circuits.zoo.cards import demo_cards
        from tl_circuits.zoo.firing import labelled
        from tl_circuits.zoo.named import load

        # Tiny operations gain nothing from a second thread, and lose much to it where the machine is busy.
        torch.set_num_threads(1)
        make_folder(out)
        say("loading the demo")
        model, transcoder = load(DEMO, None)
        local = localize(model, transcoder, DEMO_PROMPT)
        graph = labelled(attribute(local), model, transcoder)
        say("reading what its features fire on")
        page = save_page(graph, out / "dallas.html", cards=demo_cards(model, transcoder, graph))
        files = {"graph": graph.save(out / "dallas.graph"), "page": page, "json": out / "dallas.json"}
        graph.prune(*VIEWED).to_json(files["json"])
        report = Report(graph, _top_outputs(local), files, n_paths=10)
    show(report, as_json)
    if not as_json:
        typer.echo(f"Next, another: tl-circuits trace --prompt {json.dumps(ANOTHER_PROMPT)}")


@app.command("trace")
def trace_command(
    prompt: Annotated[str, typer.Option("--prompt", "-p", help="The text to trace.")],
    model: ModelName = DEMO,
    transcoder: TranscoderName = None,
    variant: VariantName = None,
    plt: Plt = False,
    model_class: ClassName = ModelClass.bridge,
    dtype: Dtype = Precision.float32,
    target: TargetNames = None,
    max_targets: MaxTargets = 10,
    coverage: Coverage = 1.0,
    max_features: MaxFeatures = None,
    time_budget: Seconds = None,
    memory_budget: Gigabytes = None,
    prune: Annotated[
        float | None, typer.Option(callback=share, help="Keep the nodes that carry this share of influence, say 0.8.")
    ] = None,
    prune_edges: Annotated[
        float, typer.Option(callback=share, help="With --prune, keep the edges that carry this share.")
    ] = 0.98,
    out: Annotated[Path | None, typer.Option(help="Write the graph here; tlc.load_graph reads it.")] = None,
    json_out: Annotated[Path | None, typer.Option(help="Write JSON for circuit-tracer's viewers here.")] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Say what the full graph would take, and stop.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trace one prompt: which features lead from its tokens to what the model says next."""
    check_choice(model, transcoder, variant, plt)
    with working():
        import torch

        from tl_circuits.attribution import attribute, plan
        from tl_circuits.graph.report import Report
        from tl_circuits.replacement import localize
        from tl_circuits.zoo.firing import labelled
        from tl_circuits.zoo.named import load

        for path in (out, json_out):
            check_place(path)
        say(f"loading {model}")
        shipped, parameters = "plt" if plt else "clt", getattr(torch, dtype.value)
        borrowed, found = load(
            model, transcoder, variant=variant, shipped=shipped, kind=model_class.value, dtype=parameters
        )
        local = localize(borrowed, found, prompt)
        if plan_only:
            report: Shown = plan(local, memory_budget=in_bytes(memory_budget))
        else:
            graph = attribute(
                local,
                target or None,
                coverage=coverage,
                max_features=max_features,
                time_budget=time_budget,
                memory_budget=in_bytes(memory_budget),
                max_targets=max_targets,
            )
            graph = labelled(graph, borrowed, found) if model == DEMO else graph
            graph = graph if prune is None else graph.prune(prune, prune_edges)
            report = Report(graph, _top_outputs(local), _written(graph, out, json_out))
    show(report, as_json)


def _written(graph: "AttributionGraph", out: Path | None, json_out: Path | None) -> dict[str, Path]:
    files = {} if out is None else {"graph": graph.save(out)}
    if json_out is not None:
        graph.to_json(json_out)
        files["json"] = json_out
    return files


@app.command("trace-many")
def trace_many_command(
    prompts: Annotated[Path, typer.Argument(metavar="PROMPTS", help="A .txt file, one prompt a line, or .jsonl.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The folder that graphs and index.jsonl are written into.")
    ],
    model: ModelName = DEMO,
    transcoder: TranscoderName = None,
    variant: VariantName = None,
    plt: Plt = False,
    model_class: ClassName = ModelClass.bridge,
    dtype: Dtype = Precision.float32,
    target: TargetNames = None,
    max_targets: MaxTargets = 10,
    coverage: Coverage = 1.0,
    max_features: MaxFeatures = None,
    time_budget: Seconds = None,
    memory_budget: Gigabytes = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Trace all anew, whatever is in the folder.")] = False,
    as_json: AsJson = False,
) -> None:
    """Trace many prompts into a folder; where it was broken off, the same command goes on.

    What cannot be traced is listed and does not stop the rest. Where torchrun starts several processes, they share the
    prompts.
    """
    check_choice(model, transcoder, variant, plt)
    with working():
        import torch

        from tl_circuits.attribution import trace_many
        from tl_circuits.attribution.prompts import read_prompts
        from tl_circuits.attribution.ranks import as_launched
        from tl_circuits.zoo.named import load

        texts = read_prompts(prompts)
        with as_launched() as speaks:
            say(f"loading {model}")
            shipped, parameters = "plt" if plt else "clt", getattr(torch, dtype.value)
            borrowed, found = load(
                model, transcoder, variant=variant, shipped=shipped, kind=model_class.value, dtype=parameters
            )
            limits = {
                "coverage": coverage,
                "max_features": max_features,
                "time_budget": time_budget,
                "memory_budget": in_bytes(memory_budget),
                "max_targets": max_targets,
            }
            results = trace_many(borrowed, found, texts, out, targets=target or None, overwrite=overwrite, **limits)
    if speaks:
        show(results, as_json)
    if len(results) < results.n_prompts:
        typer.echo(f"tl-circuits: {results!r}: mend those prompts, or give the same command again.", err=True)
        raise typer.Exit(1)


@app.command("evaluate")
def evaluate_command(
    prompts: Annotated[
        list[Path],
        typer.Option("--prompts", help="A .txt file, one prompt a line, or .jsonl; repeatable, a set of prompts each."),
    ],
    model: ModelName = DEMO,
    transcoder: TranscoderName = None,
    variant: VariantName = None,
    plt: Plt = False,
    model_class: ClassName = ModelClass.bridge,
    dtype: Dtype = Precision.float32,
    each_layer: Annotated[
        bool, typer.Option("--each-layer", help="Replace each MLP alone, too: a pass more for each layer.")
    ] = False,
    resamples: Annotated[int, typer.Option(help="How many samples of the prompts intervals are made from.")] = 1000,
    level: Annotated[float, typer.Option(help="How often intervals are to hold.")] = 0.95,
    seed: Annotated[int, typer.Option(help="What the samples are drawn with.")] = 0,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Run at most so many prompts side by side.")] = None,
    as_json: AsJson = False,
) -> None:
    """Say how faithfully a transcoder stands for the MLPs of a model, and how sparsely, between floor and ceiling."""
    check_choice(model, transcoder, variant, plt)
    with working():
        import torch

        from tl_circuits.attribution.prompts import read_sets
        from tl_circuits.intervention import evaluate
        from tl_circuits.zoo.named import load

        sets = read_sets(prompts)
        say(f"loading {model}")
        shipped, parameters = "plt" if plt else "clt", getattr(torch, dtype.value)
        borrowed, found = load(
            model, transcoder, variant=variant, shipped=shipped, kind=model_class.value, dtype=parameters
        )
        drawn = {"resamples": resamples, "level": level, "seed": seed}
        report = evaluate(borrowed, found, sets, each_layer=each_layer, batch_size=batch_size, **drawn)
    show(report, as_json)


app.command("intervene")(intervene_command)
app.command("cards")(cards_command)
app.command("page")(page_command)
app.command("train")(train_command)


@app.command("list")
def list_command(
    model: Annotated[str | None, typer.Option(help="Only those for this model, such as google/gemma-2-2b.")] = None,
    sizes: Annotated[bool, typer.Option("--sizes", help="Ask the hub how large they are.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the transcoders that can be loaded by name: those SAELens knows, and further public ones.

    What is not known is shown as "?". Without --sizes no network is asked, and sizes are known of what was fetched.
    """
    with working():
        from tl_circuits.transcoder.catalogue import Catalogue
        from tl_circuits.transcoder.hub import NoAnswer
        from tl_circuits.transcoder.registry import nearest_models, releases
        from tl_circuits.transcoder.sizes import measure

        say("asking SAELens what it knows")
        found, known, ask = releases(model), {}, sizes
        for release in found:
            try:
                known[release.name] = measure(release, ask=ask)
            except FileError as error:
                typer.echo(f"warning: {one_line(error)}", err=True)
                # Without a network, waiting for each of them in turn helps nobody.
                ask = ask and not isinstance(error, NoAnswer)
        catalogue = Catalogue(found, known)
        if model is not None and not found:
            names = ", ".join(dict.fromkeys(release.model for release in releases() if release.model))
            near = " or ".join(nearest_models(model))
            meant = f"; did you mean {near}? There" if near else ": there"
            raise FileError(
                f"No transcoder for {model!r} is known by name{meant} are some for {names}. Others load from a "
                "repository of the hub or a folder."
            )
    show(catalogue, as_json)


@app.command("convert")
def convert_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A release, repository or folder of a transcoder, or .pt files.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write; for a graph, the file.")],
    to: Annotated[Layout, typer.Option(help="The layout of the folder.")] = Layout.circuit_tracer,
    variant: Annotated[str | None, typer.Option(help="Which transcoder, where several go by that name.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a transcoder as a folder of safetensors files, or a circuit-tracer graph (.pt) as a graph of ours.

    Transcoders by Dunefsky et al. are given as their folder of .pt files. No code that such files may hold is run.
    """
    with working():
        from tl_circuits.transcoder.conversion import convert

        say(f"converting {source}")
        converted = convert(source, out, layout=to.value, variant=variant, overwrite=overwrite)
    show(converted, as_json)


def main() -> None:
    """The command `tl-circuits`."""
    app(prog_name="tl-circuits")


def _top_outputs(local: "LocalReplacementModel") -> "tuple[Output, ...]":
    from tl_circuits.graph.report import Output

    top = local.logits[-1].float().softmax(-1).topk(min(TOP_OUTPUTS, local.logits.shape[-1]))
    tokenizer = local.model.tokenizer
    return tuple(
        Output(tokenizer.decode([token]), probability)
        for token, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
    )


if __name__ == "__main__":
    main()
