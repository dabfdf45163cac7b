"""Transcoders that are known by name: what is said of each, where it is from, and how they are listed and converted."""

import copy
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

import tl_circuits as tlc
from tests import graphs, stand_ins
from tests.formats.circuit_tracer import write_circuit_tracer
from tests.formats.dunefsky import write_dunefsky
from tests.formats.formulas import assert_computes
from tests.hub import Hub
from tests.stand_ins import MNTSS
from tl_circuits import saelens
from tl_circuits.__main__ import app
from tl_circuits.errors import FileError, SettingError
from tl_circuits.transcoder import registry
from tl_circuits.transcoder.catalogue import Catalogue
from tl_circuits.transcoder.hub import Address
from tl_circuits.transcoder.load import load_transcoder
from tl_circuits.transcoder.release import Release, Variant


@pytest.fixture(scope="module")
def known() -> dict[str, Release]:
    return {release.name: release for release in tlc.releases()}


@pytest.fixture(scope="module")
def listed() -> dict[str, Any]:
    from sae_lens.loading.pretrained_saes_directory import get_pretrained_saes_directory

    return get_pretrained_saes_directory()


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> Callable[[Release], None]:
    """Registers releases that are forgotten after the test."""
    monkeypatch.setattr(registry, "_ADDED", {})
    return tlc.register_release


# What SAELens lists


def test_every_transcoder_that_saelens_lists_is_there(known: dict[str, Release], listed: dict[str, Any]) -> None:
    """By SAELens's own loaders, which say what they make: no name is taken at its word."""
    theirs = {
        name
        for name, release in listed.items()
        if release.conversion_func in ("gemma_2_transcoder", "mwhanna_transcoder", "mntss_clt_layer_transcoder")
        or (release.conversion_func == "gemma_3" and all(p.startswith("transcoder") for p in release.saes_map.values()))
    }
    ours = {name for name, release in known.items() if release.known_by == "SAELens"}
    assert ours == theirs
    assert len(ours) == 27
    assert not {name for name in ours if name.startswith("llama_scope_lxm")}, "those are autoencoders of MLP outputs"


def test_every_sae_of_a_release_is_in_exactly_one_variant(known: dict[str, Release], listed: dict[str, Any]) -> None:
    for name, release in known.items():
        if release.known_by == "SAELens":
            layers = sum(len(variant.layers) for variant in release.variants)
            assert layers == len(listed[name].saes_map), name
            assert all(variant.layers == tuple(sorted(set(variant.layers))) for variant in release.variants)


def test_their_registry_is_read_without_saelens_as_saelens_reads_it() -> None:
    read = saelens._listed()
    assert read is not None
    assert len(read) > 100
    assert read == saelens._imported()


@pytest.mark.slow
def test_releases_are_known_without_importing_saelens() -> None:
    code = "import sys, tl_circuits as tlc; print(len(tlc.releases()), 'sae_lens' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(tlc.releases())), "False"]


@pytest.mark.parametrize(
    "content", [None, "", "- a", "a: b", "a: {model: m, saes: []}", "a: {saes: [{id: 0}]}", "a: ["]
)
def test_a_registry_in_another_form_is_left_to_saelens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "pretrained_saes.yaml").write_text(content)
    monkeypatch.setattr(saelens, "find_spec", lambda _: SimpleNamespace(origin=str(tmp_path / "__init__.py")))
    assert saelens._listed.__wrapped__() is None


def test_their_registry_is_left_as_it_is(listed: dict[str, Any]) -> None:
    before = copy.deepcopy(listed)
    tlc.releases()
    registry.find(MNTSS)
    assert listed == before


def test_a_release_says_what_it_reads_and_covers(known: dict[str, Release]) -> None:
    places = {
        name: (known[name].kind, known[name].model, known[name].read, known[name].write, known[name].n_layers)
        for name in (MNTSS, "gemma-scope-2b-pt-transcoders", "gemma-scope-2-270m-pt-transcoders-all")
    }
    assert places == {
        MNTSS: ("cross-layer", "google/gemma-2-2b", "hook_resid_mid", "hook_mlp_out", 26),
        "gemma-scope-2b-pt-transcoders": ("per-layer", "google/gemma-2-2b", "ln2.hook_normalized", "hook_mlp_out", 26),
        # SAELens says hook_mlp_in, which TransformerLens has before the norm.
        "gemma-scope-2-270m-pt-transcoders-all": (
            "per-layer", "google/gemma-3-270m", "mlp.hook_in", "hook_mlp_out", 18,
        ),
    }  # fmt: skip
    (whole,) = known["gemma-scope-2b-pt-transcoders"].variants
    assert (len(whole.layers), whole.n_features) == (26, 16384)
    assert whole.paths[:2] == (
        "layer_0/width_16k/average_l0_76/params.npz",
        "layer_1/width_16k/average_l0_65/params.npz",
    )
    names = {variant.name for variant in known["gemma-scope-2-270m-pt-transcoders-all"].variants}
    plain = {f"width_{width}_l0_{l0}" for width in ("16k", "262k") for l0 in ("small", "big")}
    assert names == plain | {f"{name}_affine" for name in plain}


def test_layers_that_are_known_to_be_missing_are_told(known: dict[str, Release]) -> None:
    for size in ("pt", "it"):
        release = known[f"gemma-scope-2-27b-{size}-transcoders-all"]
        lacking = {variant.name: len(release.missing(variant)) for variant in release.variants}
        assert {name: n for name, n in lacking.items() if n} == {"width_16k_l0_big": 2, "width_16k_l0_small": 3}
    whole = {
        release.name
        for release in known.values()
        if release.variants and not any(release.missing(variant) for variant in release.variants)
    }
    assert {name for name in known if name.endswith("-transcoders-all") and "27b" not in name} <= whole
    assert {name for name in known if re.fullmatch(r"gemma-scope-2-\w+-\w+-transcoders", name)} & whole == set()


def test_models_are_as_deep_as_the_releases_that_cover_them(known: dict[str, Release]) -> None:
    for release in known.values():
        assert release.n_layers is not None, release.name
        deepest = max((layer for variant in release.variants for layer in variant.layers), default=-1)
        assert deepest < release.n_layers
        if release.kind == "per-layer" and release.name.endswith("-all"):
            assert deepest == release.n_layers - 1


def test_public_cross_layer_transcoders_that_saelens_does_not_list_are_there(known: dict[str, Release]) -> None:
    ours = {name: release for name, release in known.items() if release.known_by == "tl_circuits"}
    assert {
        "mntss/clt-gemma-2-2b-426k",
        "mntss/clt-llama-3.2-1b-524k",
        "mntss/clt-131k",
        "google/gemma-scope-2-270m-pt/clt",
        "google/gemma-scope-2-270m-it/clt",
        "google/gemma-scope-2-1b-pt/clt",
        "google/gemma-scope-2-1b-it/clt",
        "mwhanna/gemma-scope-transcoders",
        "mntss/transcoder-Llama-3.2-1B",
    } <= set(ours)
    totals = {"mntss/clt-gemma-2-2b-426k": 425_984, "mntss/clt-llama-3.2-1b-524k": 524_288}
    for name, total in totals.items():
        (variant,) = ours[name].variants
        assert len(variant.layers) * (variant.n_features or 0) == total, "what its name says, in thousands"
    assert all(str(release.address) == name for name, release in ours.items()), "each is named as it is addressed"


@pytest.mark.parametrize("model", ["gemma-2-2b", "google/gemma-2-2b", "Google/Gemma-2-2B"])
def test_releases_of_one_model_are_found_by_its_name(model: str) -> None:
    assert {release.model for release in tlc.releases(model)} == {"google/gemma-2-2b"}
    assert {"mntss/clt-gemma-2-2b-426k", MNTSS} < {release.name for release in tlc.releases(model)}
    assert tlc.releases("gemma-2") == ()


def test_a_name_is_found_or_none() -> None:
    assert registry.find("nobody/nothing") is None
    assert registry.find("nothing") is None
    found = registry.find("mntss/clt-131k")
    assert found is not None
    assert found.model == "openai/gpt-oss-20b"
    with pytest.raises(FileError, match="is a release of autoencoders"):
        registry.find("llama_scope_lxm_8x")


# What users add


@pytest.mark.slow
def test_a_release_of_ones_own_is_loaded_and_listed_by_its_name(hub: Hub, added: Callable[[Release], None]) -> None:
    written = write_circuit_tracer(hub.repository("me/clt") / "v2", cross_layer=True)
    mine = Release("mine", "me/clt/v2", "me/model", n_layers=3)
    added(mine)
    added(mine)
    assert registry.find("mine") == mine
    assert tlc.releases("model") == (mine,)
    assert_computes(load_transcoder("mine"), written)
    with pytest.raises(SettingError, match=r"'mine' is the name of another release already, me/clt/v2: give yours an"):
        added(Release("mine", "me/clt/v3"))
    with pytest.raises(SettingError, match=r"'mntss/clt-131k' is the name of another release"):
        added(Release("mntss/clt-131k", "me/clt"))


@pytest.mark.slow
def test_files_of_gemma_scope_are_listed_layer_by_layer(hub: Hub, added: Callable[[Release], None]) -> None:
    written = stand_ins.gemma_scope_1(hub)
    folder = hub.repository("google/gemma-scope-2b-pt-transcoders")
    paths = tuple(next(folder.glob(f"layer_{n}/*/average_l0_7")).relative_to(folder).as_posix() for n in range(26))
    sparse = Variant("l0_7", tuple(range(26)), tuple(f"{path}/params.npz" for path in paths))
    places: dict[str, Any] = {"read": "ln2.hook_normalized", "write": "hook_mlp_out", "model": "google/gemma-2-2b"}
    added(Release("sparse", "google/gemma-scope-2b-pt-transcoders", variants=(sparse,), loader="files", **places))
    assert_computes(load_transcoder("sparse"), written)
    assert {path.split("/")[2] for path in hub.downloaded()} == {"average_l0_7"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": " "}, r"name=' ' names no release"),
        (
            {"repository": "no address"},
            r"repository='no address' of 'a' is no repository of the hub: give it as org/na",
        ),
        ({"repository": "../up/there"}, r"repository='../up/there' of 'a' is no repository"),
        ({"repository": None}, r"repository=None of 'a' is no repository"),
        ({"kind": "deep"}, r"kind='deep' of 'a' is none of None, cross-layer, per-layer"),
        ({"loader": "pickle"}, r"loader='pickle' of 'a' is none of repository, files, saelens"),
        ({"n_layers": 0}, r"n_layers=0 of 'a' is no number of layers: give 1 or more"),
        ({"variants": ("x",)}, r"variants=\('x',\) of 'a' is no tuple of Variant"),
        ({"loader": "saelens"}, r"'a' is loaded layer by layer \(loader='saelens'\): give variants whose paths"),
        ({"loader": "files", "variants": (Variant("", (0, 1), ("x",)),)}, r"'a' is loaded layer by layer"),
        ({"loader": "files", "variants": (Variant("", (0,), ("x",)),)}, r"'a' is .*: give read and write"),
    ],
)
def test_a_release_that_cannot_be_loaded_is_refused_when_it_is_made(fields: dict[str, Any], message: str) -> None:
    # Type checks would catch some of these first.
    made = object.__new__(Release)
    for name, value in {**DEFAULTS, **fields}.items():
        object.__setattr__(made, name, value)
    with pytest.raises(SettingError, match=message):
        made.__post_init__()


DEFAULTS: dict[str, Any] = {
    "name": "a", "repository": "b/c", "model": None, "kind": None, "read": None, "write": None, "n_layers": None,
    "variants": (), "loader": "repository", "known_by": "user",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("a/b", Address("a/b")),
        ("a/b@v1", Address("a/b", "v1")),
        ("a/b@v1/c/d", Address("a/b", "v1", "c/d")),
        ("a/b/c/d@v1", Address("a/b", "v1", "c/d")),
        ("a/b/", Address("a/b")),
        ("hf://a/b/c", Address("a/b", None, "c")),
        ("a/b@refs/pr/12", Address("a/b", "refs/pr/12")),
        ("a/b@refs/pr/12/c/d", Address("a/b", "refs/pr/12", "c/d")),
        ("a/b/c@refs/convert/parquet", Address("a/b", "refs/convert/parquet", "c")),
        ("https://huggingface.co/a/b", Address("a/b")),
        ("https://huggingface.co/a/b/tree/main/c/d", Address("a/b", "main", "c/d")),
        ("https://huggingface.co/a/b/tree/refs/pr/12", Address("a/b", "refs/pr/12")),
        ("https://huggingface.co/a", None),
        ("https://huggingface.co/a/b/blob/main/c.npz", None),
        ("https://huggingface.co/a/b/tree/main/../c", None),
        ("https://huggingface.co.evil.example/a/b", None),
        ("a", None),
        ("a/b@v1/c@v2", None),
        ("a/b/../c", None),
        ("a/b//c", None),
        ("a/./c/d", None),
        ("", None),
        ("a b/c", None),
    ],
)
def test_an_address_is_understood_or_is_none(text: str, address: Address | None) -> None:
    assert Address.parse(text) == address
    if address is not None:
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("hf://a/b/c/d.npz", (Address("a/b", None, "c"), "d.npz")),
        ("hf://a/b/d.npz?revision=v1", (Address("a/b", "v1"), "d.npz")),
        ("hf://a/b", None),
        ("https://a/b/c", None),
        ("hf://a/b/../d.npz", None),
        ("hf://a/b@v1/d.npz", None),
        ("hf://a/b/d.npz?revision=refs/pr/1", (Address("a/b", "refs/pr/1"), "d.npz")),
        ("hf://a/b/d.npz?revision=../../../evil", None),
        ("hf://[a/b/d.npz", None),
    ],
)
def test_a_file_of_the_hub_is_understood_or_is_none(uri: str, found: tuple[Address, str] | None) -> None:
    assert Address.of_file(uri) == found


# tl-circuits list


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_the_list_says_what_is_known_and_asks_no_network(hub: Hub, known: dict[str, Release]) -> None:
    result = run("list", "--json")
    assert result.exit_code == 0, result.stderr
    found = {release["name"]: release for release in json.loads(result.stdout)["releases"]}
    assert found.keys() == known.keys()
    assert found[MNTSS]["variants"] == [
        {
            "name": "",
            "layers": list(range(26)),
            "missing_layers": [],
            "n_features": 98304,
            "bytes": None,
        }
    ]
    assert found["google/gemma-scope-2-1b-it/clt"]["variants"] is None
    assert hub.requests == []


@pytest.mark.slow
def test_sizes_are_asked_of_the_hub_and_then_known(hub: Hub) -> None:
    stand_ins.mntss(hub)
    stand_ins.gemma_scope_1(hub)
    needed = stand_ins.files(hub, stand_ins.ALL["mntss"])
    size = sum((hub.repository("mntss/clt-gemma-2-2b-2.5M") / path).stat().st_size for path in needed)
    result = run("list", "--model", "gemma-2-2b", "--sizes", "--json")
    assert result.exit_code == 0, result.stderr
    found = {each["name"]: each["variants"][0]["bytes"] for each in json.loads(result.stdout)["releases"]}
    assert found[MNTSS] == size
    assert found["gemma-scope-2b-pt-transcoders"] > 26 * 4 * (24 + 24 + 16)
    assert found["mntss/clt-gemma-2-2b-426k"] is None
    assert "warning: There is no repository 'mntss/clt-gemma-2-2b-426k' on the hub" in result.stderr
    assert hub.downloaded() == []
    load_transcoder(MNTSS)
    hub.requests.clear()
    again = json.loads(run("list", "--model", "gemma-2-2b", "--json").stdout)["releases"]
    assert next(each for each in again if each["name"] == MNTSS)["variants"][0]["bytes"] == size
    assert hub.requests == []


@pytest.mark.slow
def test_without_network_the_sizes_are_asked_for_once(hub: Hub) -> None:
    with hub.down():
        result = run("list", "--model", "gemma-2-2b", "--sizes", "--json")
    assert result.exit_code == 0, result.stderr
    warned = [line for line in result.stderr.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1
    assert "cannot be reached" in warned[0]


def test_variants_that_only_the_hub_knows_are_told_with_their_sizes(hub: Hub) -> None:
    stand_ins.gemma_scope_2_clt(hub)
    (hub.repository("google/gemma-scope-2-1b-it") / "clt/width_262k_l0_medium/params_layer_0.safetensors").unlink()
    result = run("list", "--model", "gemma-3-1b-it", "--sizes", "--json")
    (clt,) = (each for each in json.loads(result.stdout)["releases"] if each["name"].endswith("/clt"))
    assert [variant["name"] for variant in clt["variants"]] == ["width_262k_l0_medium_affine"], "the other has holes"
    assert clt["variants"][0]["bytes"] > 26 * 4 * 6 * 26 * 4


def test_a_model_that_nobody_trained_for_is_answered_with_those_that_are() -> None:
    result = run("list", "--model", "nobody/nothing")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert (
        "No transcoder for 'nobody/nothing' is known by name: there are some for google/gemma-2-2b, goo"
        in result.stderr
    )


@pytest.mark.slow
def test_a_model_is_answered_with_those_whose_names_are_like_it() -> None:
    for model in ("gemma-3-1b", "Google/Gemma-3-1b"):
        said = run("list", "--model", model).stderr
        assert f"No transcoder for '{model}' is known by name; did you mean google/gemma-3-1b-" in said
        assert {"google/gemma-3-1b-it", "google/gemma-3-1b-pt"} <= set(re.split(r" or |\?|mean ", said))


HOSTILE = Release(
    "[red]\x1b[2J",
    "a/b",
    "[/]\nmodel",
    read="\u202ehook",
    variants=(Variant("a", (0, 1), n_features=5), Variant("b", (), n_features=70_000)),
)


@pytest.mark.parametrize("width", [40, 60, 80, 159, 160, 250])
def test_a_list_fits_the_terminal_and_obeys_nothing(width: int, known: dict[str, Release]) -> None:
    console = Console(width=width, highlight=False)
    with console.capture() as captured:
        console.print(
            Catalogue([*known.values(), HOSTILE], {MNTSS: {"": 171_000_000_000}, HOSTILE.name: {"a": 5, "b": 7_000}})
        )
    text = captured.get()
    assert max(map(len, text.splitlines())) <= width
    assert {letter for letter in text if not letter.isprintable()} == {"\n"}
    flat = "".join(text.split())
    for said in (*known, r"[red]\x1b[2J", r"[/]\nmodel", r"\u202ehook→?", "171.0GB", "5Bto7.0kB", "5to70,000", "?of?"):
        assert said in flat, said
    assert f"{len(known) + 1} releases." in text


# tl-circuits convert


def convert(*arguments: object) -> Any:
    result = run("convert", *map(str, arguments), "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def refused(*arguments: object) -> str:
    result = run("convert", *map(str, arguments))
    assert result.exit_code == 1, result.stdout
    assert result.stdout == ""
    return result.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_release_is_converted_to_a_folder(hub: Hub, tmp_path: Path) -> None:
    written = stand_ins.gemma_scope_2(hub)
    name, variant = "gemma-scope-2-1b-it-transcoders-all", "width_16k_l0_small_affine"
    found = convert(name, tmp_path / "ours", "--variant", variant)
    assert found | {"out": "", "source": ""} == {
        "source": "", "out": "", "layout": "circuit-tracer", "kind": "per-layer transcoder", "n_layers": 26,
        "n_features": 6, "read": "mlp.hook_in", "write": "hook_mlp_out", "model": "google/gemma-3-1b-it",
    }  # fmt: skip
    assert_computes(load_transcoder(tmp_path / "ours"), written)
    assert convert(name, tmp_path / "saelens", "--variant", variant, "--to", "saelens")["layout"] == "saelens"
    assert set(load_file(tmp_path / "saelens" / "layer_25" / "sae_weights.safetensors")) == {
        "W_enc", "W_dec", "b_enc", "b_dec", "threshold", "W_skip",
    }  # fmt: skip
    assert_computes(load_transcoder(tmp_path / "saelens"), written)


def test_pickled_transcoders_are_converted_to_either_layout(tmp_path: Path) -> None:
    written = write_dunefsky(tmp_path / "pt")
    for layout in ("circuit-tracer", "saelens"):
        convert(tmp_path / "pt", tmp_path / layout, "--to", layout)
        found = load_transcoder(tmp_path / layout)
        assert_computes(found, written)
        assert found.processed_weights


def test_a_graph_of_circuit_tracer_is_converted(tmp_path: Path) -> None:
    (source,) = sorted((Path(__file__).parent / "golden" / "graphs").glob("capped.pt"))
    found = convert(source, tmp_path / "a.graph")
    graph = tlc.load_graph(tmp_path / "a.graph")
    assert (found["kind"], found["nodes"], found["edges"]) == ("graph", len(graph.nodes), len(graph.edges))
    assert "a.graph' exists already: give another name, or overwrite=True (--overwrite) to replace it" in refused(
        source, tmp_path / "a.graph"
    )
    assert convert(source, tmp_path / "a.graph", "--overwrite")["nodes"] == len(graph.nodes)
    assert "is one graph: leave out --variant x" in refused(source, tmp_path / "b.graph", "--variant", "x")


def test_a_file_that_is_missing_or_a_graph_already_is_not_converted(hub: Hub, tmp_path: Path) -> None:
    for missing in ("nosuch.pt", "some/where/nosuch.PTH"):
        assert f"There is no file '{missing}' on this machine: check its path" in refused(missing, tmp_path / "x")
    graph = graphs.random_graph(0).save(tmp_path / "dallas.graph")
    said = f"'{graph}' is a graph of tl_circuits already, and nothing is to be converted: tlc.load_graph reads it"
    assert said in refused(graph, tmp_path / "x.pt")
    (tmp_path / "other").write_bytes(b"no graph")
    assert f"other' is a file: give the folder that holds it, '{tmp_path}'" in refused(tmp_path / "other", "x")
    assert hub.requests == []


@pytest.mark.slow
def test_what_is_there_is_replaced_only_when_asked_and_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    stand_ins.mntss(hub)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "years-of-work.tex").touch()
    said = "exists and holds 1 files: give overwrite=True (--overwrite) to replace it, or another folder"
    assert said in refused(MNTSS, tmp_path / "notes")
    assert hub.requests == []
    assert "holds more than a transcoder (years-of-work.tex)" in refused(MNTSS, tmp_path / "notes", "--overwrite")
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["years-of-work.tex"]
    convert(MNTSS, tmp_path / "clt")
    convert(MNTSS, tmp_path / "clt", "--overwrite")
    assert load_transcoder(tmp_path / "clt").span == 26


@pytest.mark.slow
def test_what_a_layout_cannot_hold_is_refused(hub: Hub, tmp_path: Path) -> None:
    stand_ins.mntss(hub)
    message = refused(MNTSS, tmp_path / "saes", "--to", "saelens")
    assert message.startswith("tl-circuits: ")
    assert "features write up to 26 layers, and a SAELens transcoder writes one" in message
    assert not (tmp_path / "saes").exists()
    assert "There is no folder 'no-such-thing' on this machine" in refused("no-such-thing", tmp_path / "x")


def test_features_are_told_layer_by_layer_where_layers_differ(tmp_path: Path) -> None:
    layers = [(torch.ones(n, 4), torch.zeros(n), torch.ones(n, 1, 4)) for n in (5, 7)]
    W_enc, b_enc, W_dec = (list(each) for each in zip(*layers, strict=True))
    tlc.save_transcoder(tlc.CrossLayerTranscoder(W_enc, b_enc, W_dec, torch.zeros(2, 4)), tmp_path / "plt")
    assert convert(tmp_path / "plt", tmp_path / "again")["n_features"] == [5, 7]


@pytest.mark.slow
def test_a_conversion_is_told_in_lines_that_fit(hub: Hub, tmp_path: Path) -> None:
    stand_ins.mntss(hub)
    result = run("convert", MNTSS, str(tmp_path / "clt"))
    assert result.stdout.startswith(f"{MNTSS} →")
    assert "cross-layer transcoder, layers 26, features per layer 6" in " ".join(result.stdout.split())
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_names_are_told_to_be_wrong_before_a_transcoder_is_fetched(hub: Hub) -> None:
    stand_ins.mntss(hub)
    result = run("trace", "--prompt", "x", "--model", "nobody/nothing", "--transcoder", MNTSS)
    assert "The model 'nobody/nothing' could not be loaded as a TransformerBridge" in result.stderr
    assert not [path for path in hub.downloaded() if "clt-gemma" in str(path)]
    hub.requests.clear()
    result = run("trace", "--prompt", "x", "--model", "nobody/nothing", "--transcoder", MNTSS, "--variant", "y")
    assert f"There is no variant 'y' of '{MNTSS}', which is one transcoder: leave variant out" in result.stderr
    assert hub.requests == []


@pytest.mark.slow
def test_a_name_is_traced_from_a_shell(hub: Hub) -> None:
    stand_ins.gemma_scope_2_clt(hub)
    stand_ins.serve_model(hub, "gemma-3", n_layers=26)
    trace = ("trace", "--model", "google/gemma-3-1b-it", "--transcoder", "google/gemma-scope-2-1b-it/clt")
    result = run(*trace, "--variant", "width_262k_l0_medium_affine", "--prompt", " Austin", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["provenance"]["transcoder_kind"] == "CLT"
    result = run(*trace, "--prompt", " Austin", "--json")
    assert result.exit_code == 1
    assert "holds 2 transcoders (width_262k_l0_medium, width_262k_l0_medium_affine)" in result.stderr
