"""Transcoders by name, through the real clients of SAELens and the hub: what is fetched, and all that can go wrong."""

import errno
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub.constants
import huggingface_hub.file_download
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import tl_circuits as tlc
from tests import stand_ins
from tests.formats import WRITERS
from tests.formats.circuit_tracer import write_circuit_tracer
from tests.formats.formulas import assert_computes
from tests.formats.gemma_scope import write_gemma_scope_1, write_gemma_scope_2
from tests.hub import Hub
from tests.stand_ins import MNTSS
from tl_circuits.errors import FileError, FitError
from tl_circuits.nodes import Kind
from tl_circuits.transcoder.files.formats import everything, find, load_folder
from tl_circuits.transcoder.hub import Address, Listing
from tl_circuits.transcoder.load import load_transcoder, outlined

every_public = pytest.mark.parametrize("name", stand_ins.ALL)


def bodies(hub: Hub) -> int:
    """How many files, or parts of files, were sent."""
    return sum(request.method == "GET" and "/resolve/" in request.path for request in hub.requests)


def cache() -> Path:
    return Path(huggingface_hub.constants.HF_HUB_CACHE)


def assert_nothing_is_half_written(hub: Hub) -> None:
    """Whatever lies in the cache is as it is on the hub, under its name or its hash."""
    assert not list(cache().rglob("*.incomplete"))
    whole = {path.read_bytes() for path in hub.root.rglob("*") if path.is_file()}
    for path in cache().rglob("blobs/*"):
        assert path.read_bytes() in whole, path
    assert all(path.exists() for path in cache().rglob("snapshots/**/*"))


# By name


@pytest.mark.slow
@every_public
def test_a_public_transcoder_is_loaded_by_name_from_its_own_files_alone(hub: Hub, name: str) -> None:
    stand_in = stand_ins.ALL[name]
    written = stand_in.serve(hub)
    found = load_transcoder(stand_in.source, variant=stand_in.variant)
    assert_computes(found, written)
    assert set(hub.downloaded()) == stand_ins.files(hub, stand_in)
    assert_nothing_is_half_written(hub)
    sent = bodies(hub)
    again = load_transcoder(stand_in.source, variant=stand_in.variant)
    assert bodies(hub) == sent
    assert all(torch.equal(a, b) for a, b in zip(again.W_dec, found.W_dec, strict=True))


@pytest.mark.slow
@every_public
def test_from_a_name_to_a_graph(hub: Hub, name: str) -> None:
    stand_in = stand_ins.ALL[name]
    stand_in.serve(hub)
    transcoder = load_transcoder(stand_in.source, variant=stand_in.variant)
    served = stand_ins.serve_model(hub, stand_in.family, n_layers=transcoder.n_layers)
    graph = tlc.trace(served.bridge(), transcoder, " Austin is", max_targets=1)
    assert graph.nodes.count(Kind.FEATURE) > 100
    assert graph.conservation_error < 1e-4
    assert graph.probe_error < 1e-4
    assert graph.provenance.model == transcoder.model_name == served.repository
    assert graph.provenance.transcoder == transcoder.source
    assert graph.provenance.transcoder_kind == ("CLT" if "cross" in name or name == "mntss" else "PLT")


@pytest.mark.slow
def test_layers_without_a_config_are_read_as_their_release_says(hub: Hub) -> None:
    """As some of mwhanna's lie on the hub; SAELens says what they read."""
    written = stand_ins.mwhanna(hub)
    repository = "mwhanna/qwen3-0.6b-transcoders-lowl0"
    (hub.repository(repository) / "config.yaml").unlink()
    found = load_transcoder("mwhanna-qwen3-0.6b-transcoders-lowl0")
    assert_computes(found, written)
    assert found.source == f"mwhanna-qwen3-0.6b-transcoders-lowl0: {repository}@{hub.commit(repository)}"
    hub.requests.clear()
    with pytest.raises(
        FileError, match=rf"'{repository}' has no config.yaml \(it holds .*: circuit-tracer's layout ne"
    ):
        load_transcoder(repository)
    assert hub.downloaded() == []
    (hub.repository(repository) / "layer_7.safetensors").unlink()
    with pytest.raises(FileError, match=r"lowl0' has no layer_7.safetensors; .* 1 of 28 are missing"):
        load_transcoder("mwhanna-qwen3-0.6b-transcoders-lowl0")


@pytest.mark.slow
def test_a_threshold_below_zero_lets_negative_features_through(hub: Hub) -> None:
    """The cross-layer transcoder is loaded as what it is: SAELens reads neither its thresholds nor its decoders."""
    stand_ins.mntss(hub)
    clt = load_transcoder(MNTSS)
    assert clt.span == 26
    assert (clt.encode(torch.randn(50, 4, generator=torch.Generator().manual_seed(0)), 3) < 0).any()


def test_a_variant_has_to_be_named_where_there_are_several(hub: Hub) -> None:
    stand_ins.gemma_scope_2_clt(hub)
    with pytest.raises(
        FileError,
        match=r"^'google/gemma-scope-2-1b-it/clt' holds 2 transcoders "
        r"\(width_262k_l0_medium, width_262k_l0_medium_affine\): give one of these as variant",
    ):
        load_transcoder("google/gemma-scope-2-1b-it/clt")
    with pytest.raises(FileError, match=r"no variant 'width_1m' in 'google/gemma-scope-2-1b-it/clt', which holds w"):
        load_transcoder("google/gemma-scope-2-1b-it/clt", variant="width_1m")
    assert hub.downloaded() == []


@pytest.mark.slow
def test_a_release_tells_its_variants_without_the_hub(hub: Hub) -> None:
    name = "gemma-scope-2-27b-it-transcoders-all"
    with pytest.raises(
        FileError, match=r"holds 8 transcoders \(width_16k_l0_big \(lacks 2 of 62 layers\), .*: give one"
    ):
        load_transcoder(name)
    with pytest.raises(FileError, match=r"no variant 'width_16k': .* holds 8 transcoders .*; give one of these"):
        load_transcoder(name, variant="width_16k")
    with pytest.raises(
        FileError,
        match=r"'width_16k_l0_small', covers 59 of the 62 layers of google/gemma-3-27b-it; layers \d+, \d+, \d+ are "
        r"missing, .* Whole are width_16k_l0_big_affine, .*: give one of these",
    ):
        load_transcoder(name, variant="width_16k_l0_small")
    with pytest.raises(
        FileError, match=r"covers 4 of the 26 layers .*0, 1, 2, 3, 4, 5, 6, 8 and 14 more .*--model goo"
    ):
        load_transcoder("gemma-scope-2-1b-it-transcoders", variant="width_65k_l0_big")
    for variant in (None, "width_16k"):
        with pytest.raises(
            FileError,
            match=r"'gemma-scope-2-1b-it-transcoders' holds 18 transcoders, each of which lacks 22 or more of the 26 "
            r"layers of google/gemma-3-1b-it, .*Whole is 'gemma-scope-2-1b-it-transcoders-all'.*: load that by its na",
        ):
            load_transcoder("gemma-scope-2-1b-it-transcoders", variant=variant)
    with pytest.raises(FileError, match=r"no variant 'x' of .*, which is one transcoder: leave variant out"):
        load_transcoder(MNTSS, variant="x")
    assert hub.requests == []


def test_a_name_that_nobody_knows_is_answered_with_the_nearest(hub: Hub) -> None:
    with pytest.raises(
        FileError,
        match=r"no folder 'gemma-scope-2-1b-it-transcoder-all' on this machine, and no release of that name.*"
        r"Did you mean 'gemma-scope-2-1b-it-transcoders-all', .*`tl-circuits list`",
    ):
        load_transcoder("gemma-scope-2-1b-it-transcoder-all")
    with pytest.raises(FileError, match=r"no folder './set' on this machine.* or the path of a folder\. `tl-circ"):
        load_transcoder("./set")
    with pytest.raises(FileError, match=r"repository 'mntss/clt-gemma-2-2b-425k'.*mean 'mntss/clt-gemma-2-2b-426k'"):
        load_transcoder("mntss/clt-gemma-2-2b-425k")
    assert len(hub.requests) == 1


def test_autoencoders_are_refused_by_name(hub: Hub) -> None:
    with pytest.raises(FileError, match=r"'gemma-scope-2b-pt-res' is a release of autoencoders for gemma-2-2b: they r"):
        load_transcoder("gemma-scope-2b-pt-res")
    assert hub.requests == []


@pytest.mark.parametrize("source", ["", " ", b"mntss"])
def test_what_is_no_name_is_refused(source: Any) -> None:
    with pytest.raises(FileError, match=rf"{re.escape(repr(source))} names no transcoder: give a release, a repos"):
        load_transcoder(source)


@pytest.mark.parametrize("source", ["a\0b", "x" * 5000, "~nobody/set", "a//b", "org/name@v1@v2", "org/../name/sub"])
def test_a_text_that_can_name_nothing_is_refused_with_one_error(hub: Hub, source: str) -> None:
    with pytest.raises(FileError, match="There is no folder"):
        load_transcoder(source)
    assert hub.requests == []


def test_a_list_takes_no_variant() -> None:
    with pytest.raises(
        FileError, match=r"variant='a' was given with a list of SAEs, which is one transcoder: leave it"
    ):
        load_transcoder([object()], variant="a")
    with pytest.raises(FitError, match=r"Item 0 of 1 is object"):
        load_transcoder([object()])


# What was loaded says so


@pytest.mark.slow
@every_public
def test_what_was_loaded_by_name_says_the_name_and_the_commit(hub: Hub, name: str) -> None:
    stand_in = stand_ins.ALL[name]
    stand_in.serve(hub)
    source = load_transcoder(stand_in.source, variant=stand_in.variant).source
    assert source is not None
    assert stand_in.variant is None or source.endswith(f"{stand_in.variant}")
    address = re.search(r"(?:^|: )(?P<repo>[^@: ]+)@(?P<commit>[0-9a-f]{40})(?P<folder>[^,]*)", source)
    assert address is not None, source
    assert address["commit"] == hub.commit(address["repo"])
    assert source.startswith(stand_in.source if "/" not in stand_in.source else address["repo"])


@pytest.mark.slow
def test_the_address_that_a_transcoder_says_it_came_from_loads_it_again(hub: Hub) -> None:
    folder = hub.repository("me/clts")
    write_circuit_tracer(folder / "small" / "v1", cross_layer=True)
    first = load_transcoder("me/clts@main/small")
    assert first.source == f"me/clts@{hub.commit('me/clts')}/small/v1"
    assert_same_weights(load_transcoder(str(first.source)), first)
    with hub.down():
        assert load_transcoder("me/clts/small").source == first.source
    assert load_transcoder(folder / "small", variant="v1").source == "small, v1"


def test_a_folder_is_told_by_its_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_circuit_tracer(tmp_path / "private" / "my-clt", cross_layer=True)
    assert load_transcoder(tmp_path / "private" / "my-clt").source == "my-clt"
    monkeypatch.chdir(tmp_path / "private" / "my-clt")
    assert load_transcoder(".").source == "my-clt"


def assert_same_weights(found: tlc.CrossLayerTranscoder, expected: tlc.CrossLayerTranscoder) -> None:
    for a, b in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)


# By address


@pytest.mark.slow
def test_an_address_names_a_repository_a_revision_and_a_folder(hub: Hub) -> None:
    written = write_circuit_tracer(hub.repository("me/clts") / "small" / "v1", cross_layer=True)
    commit = hub.commit("me/clts")
    for address in (
        "me/clts",
        "me/clts@main",
        "hf://me/clts/small",
        f"me/clts@{commit}/small/v1",
        "me/clts/small@main",
    ):
        assert_computes(load_transcoder(address), written)
    assert str(Address.parse(f"me/clts@{commit}/small/v1")) == f"me/clts@{commit}/small/v1"


def test_a_folder_goes_before_a_release_and_a_repository(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for source in (MNTSS, "mntss/clt-gemma-2-2b-426k"):
        written = write_circuit_tracer(tmp_path / source, cross_layer=False)
        assert_computes(load_transcoder(source), written)
        assert_computes(load_transcoder(Path(source)), written)
    assert hub.requests == []


@pytest.mark.slow
def test_a_newer_commit_is_fetched_whole_and_never_mixed_with_an_older_one(hub: Hub) -> None:
    folder = hub.repository("me/clt")
    write_circuit_tracer(folder, cross_layer=True)
    load_transcoder("me/clt")
    written = write_circuit_tracer(folder, cross_layer=True, threshold=False)
    assert_computes(load_transcoder("me/clt"), written)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gemma-scope-1", "gemma-scope-2", "gemma-scope-2 cross-layer", "layers"])
def test_a_config_may_list_files_of_other_repositories(hub: Hub, kind: str) -> None:
    """As circuit-tracer's own collections do: `transcoders: [hf://google/…/layer_0/…/params.npz, …]`."""
    place, read = hub.repository("google/scope") / "sub", "mlp.hook_in"
    match kind:
        case "gemma-scope-1":
            written, read = write_gemma_scope_1(place, n_layers=11), "ln2.hook_normalized"
            pattern = "*/*/*/params.npz"
        case "gemma-scope-2":
            written, pattern = write_gemma_scope_2(place, cross_layer=False, n_layers=11), "*/params.safetensors"
        case "layers":
            written = write_circuit_tracer(place, cross_layer=False, n_layers=11, read=read)
            pattern = "layer_*.safetensors"
        case _:
            written, pattern = write_gemma_scope_2(place, cross_layer=True, n_layers=11), "params_layer_*.safetensors"
    stand_ins.beside(hub.repository("google/scope"), "other/params.npz", "sub/README.md")
    number = re.compile(r"(?:layer_)(\d+)")
    paths = [path.relative_to(hub.root).as_posix() for path in place.glob(pattern)]
    ordered = sorted(paths, key=lambda path: int(number.findall(path)[0]))
    cross_layer = kind == "gemma-scope-2 cross-layer"
    listing(hub.repository("me/list") / "width_16k", ordered, read=read, cross_layer=cross_layer)
    found = load_transcoder("me/list/width_16k")
    assert found.n_layers == 11
    assert found.model_name == "google/gemma-2-2b"
    x = np.random.default_rng(0).normal(size=(11, 3, 4))
    features, outputs = written.formula(x)
    ours = [found.encode(torch.from_numpy(x[layer]), layer) for layer in range(11)]
    for layer in range(11):
        np.testing.assert_allclose(ours[layer], features[layer], atol=1e-6)
        y, skip = found.decode(ours, layer), found.skip(torch.from_numpy(x[layer]), layer)
        np.testing.assert_allclose(y if skip is None else y + skip, outputs[layer], atol=1e-5)
    assert set(hub.downloaded()) == {"width_16k/config.yaml", *(path.removeprefix("google/scope/") for path in paths)}


def listing(folder: Path, paths: list[str], *, read: str = "mlp.hook_in", cross_layer: bool = False) -> None:
    """circuit-tracer's config.yaml, with files of the hub."""
    kind = "cross_layer_transcoder" if cross_layer else "transcoder_set"
    listed = "".join(f"- hf://{path}?revision=main\n" for path in paths)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(
        f"model_name: google/gemma-2-2b\nmodel_kind: {kind}\nfeature_input_hook: {read}\n"
        f"feature_output_hook: hook_mlp_out\ntranscoders:\n{listed}"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("google/scope/../../../secret.npz", r"is no file of the hub: hf://org/name/folder/file is read"),
        ("google/scope/..", r"is no file of the hub"),
        ("google", r"is no file of the hub"),
        ("google/scope/layer_0.npz", r"'google/scope@main' has no 'layer_0.npz', one of 1 of 1 files that it lacks"),
        ("nobody/nothing/layer_0.npz", r"no repository 'nobody/nothing' on the hub"),
    ],
)
def test_a_listed_file_that_is_not_there_or_leads_elsewhere_is_refused(hub: Hub, entry: str, message: str) -> None:
    stand_ins.beside(hub.repository("google/scope"), "README.md")
    listing(hub.repository("me/list"), [entry])
    with pytest.raises(FileError, match=message):
        load_transcoder("me/list")


# The network


@pytest.mark.slow
def test_a_download_that_breaks_off_goes_on_with_the_files_that_are_missing(hub: Hub) -> None:
    written, name = stand_ins.mwhanna(hub), "mwhanna-qwen3-0.6b-transcoders-lowl0"
    last = hub.repository("mwhanna/qwen3-0.6b-transcoders-lowl0") / "layer_9.safetensors"
    save_file(load_file(last), last, {"note": "longer than the others" * 100})
    hub.cut_after(900, times=None)
    with pytest.raises(
        FileError, match=rf"'{name}' was not loaded. Fetching 'mwhanna/.*' broke off \(.*\): load it again"
    ):
        load_transcoder(name)
    assert_nothing_is_half_written(hub)
    hub.cut = None
    hub.requests.clear()
    assert_computes(load_transcoder(name), written)
    assert "layer_9.safetensors" in hub.downloaded()
    assert len(hub.downloaded()) < 10, "the others were there already"


@pytest.mark.slow
def test_a_connection_that_is_cut_once_is_taken_up_again(hub: Hub) -> None:
    written = stand_ins.mntss(hub)
    hub.cut_after(2000)
    assert_computes(load_transcoder(MNTSS), written)
    assert any(request.range == "bytes=2000-" for request in hub.requests)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["down", "HF_HUB_OFFLINE"])
def test_without_network_the_cache_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    written = stand_ins.mntss(hub)
    load_transcoder("mntss/clt-gemma-2-2b-2.5M")
    stand_ins.mwhanna(hub)
    if how == "down":
        hub.stop()
    else:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    try:
        assert_computes(load_transcoder(MNTSS), written)
        with pytest.raises(
            FileError,
            match=r"'mwhanna/qwen3.*' is not on this machine, and the hub cannot be reached \("
            + ("HF_HUB_OFFLINE is set" if how == "HF_HUB_OFFLINE" else "Connect.*take away HF_HUB_OFFLINE"),
        ):
            load_transcoder("mwhanna-qwen3-0.6b-transcoders-lowl0")
        next(cache().glob("models--mntss*/snapshots/*/W_enc_7.safetensors")).unlink()
        with pytest.raises(
            FileError, match=r"1 of 53 files of 'mntss/.*' are not on this machine \(first: W_enc_7.safetensors\), and"
        ):
            load_transcoder(MNTSS)
    finally:
        if how == "down":
            hub.start()


@pytest.mark.slow
def test_without_network_what_was_never_fetched_of_a_repository_is_named(hub: Hub) -> None:
    stand_ins.gemma_scope_2_clt(hub)
    load_transcoder("google/gemma-scope-2-1b-it/clt", variant="width_262k_l0_medium_affine")
    with hub.down():
        with pytest.raises(
            FileError, match=r"3 of 3 files of 'google/.*/clt' are not .*first: width_262k_l0_medium/conf"
        ):
            load_transcoder("google/gemma-scope-2-1b-it/clt", variant="width_262k_l0_medium")
        with pytest.raises(
            FileError, match=r"no file below 'google/gemma-scope-2-1b-it/transcoder_all', and the hub cann"
        ):
            load_transcoder("google/gemma-scope-2-1b-it/transcoder_all")


@pytest.mark.slow
def test_a_gated_repository_says_how_to_be_let_in(hub: Hub) -> None:
    stand_ins.mntss(hub)
    hub.gated.add("mntss/clt-gemma-2-2b-2.5M")
    with pytest.raises(
        FileError, match=r"'mntss/clt-gemma-2-2b-2.5M' is gated: accept its terms .* `hf auth login` or"
    ):
        load_transcoder(MNTSS)


def test_a_token_that_has_run_out_is_told_as_such(hub: Hub) -> None:
    write_circuit_tracer(hub.repository("me/clt"), cross_layer=True)
    hub.refused.add("me/clt")
    with pytest.raises(
        FileError, match=r"'me/clt' is not shown to you \(.*401.*\): log in anew .* HF_TOKEN that has run out"
    ):
        load_transcoder("me/clt")


def test_what_the_hub_has_not_is_named(hub: Hub) -> None:
    with pytest.raises(FileError, match=r"There is no repository 'nobody/nothing' on the hub, or it is private"):
        load_transcoder("nobody/nothing")
    write_circuit_tracer(hub.repository("me/clt"), cross_layer=True)
    with pytest.raises(FileError, match=r"'me/clt' has no revision 'v2': give a branch, tag or commit"):
        load_transcoder("me/clt@v2")
    with pytest.raises(FileError, match=r"There is no folder 'width_1m' in 'me/clt': look at the repository's files"):
        load_transcoder("me/clt/width_1m")
    with pytest.raises(FileError, match=r"'me/a--b' is no name of a repository \(HFValidationError.*\): give org/name"):
        load_transcoder("me/a--b")


# The disk


def test_what_does_not_fit_the_disk_is_not_begun(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.mntss(hub)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(
        FileError, match=r"does not fit into the hub's cache, '.*': 0.00 GB are to be fetched and 0.00 GB"
    ):
        load_transcoder(MNTSS)
    assert hub.downloaded() == []


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile_leaves_whole_files_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    written = stand_ins.mntss(hub)
    get: Callable[..., Any] = huggingface_hub.file_download.http_get
    with monkeypatch.context() as patch:

        def fills_up(url: str, temp_file: Any, **more: Any) -> None:
            if "W_dec_1" in url:
                temp_file.write(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            get(url, temp_file, **more)

        patch.setattr(huggingface_hub.file_download, "http_get", fills_up)
        with pytest.raises(
            FileError, match=r"does not fit into the hub's cache, '.*': the disk is full. Free space there"
        ):
            load_transcoder(MNTSS)
    assert_nothing_is_half_written(hub)
    assert_computes(load_transcoder(MNTSS), written)


# What is there


@pytest.mark.slow
def test_a_file_that_is_cut_short_on_the_hub_is_refused(hub: Hub) -> None:
    stand_ins.mntss(hub)
    path = hub.repository("mntss/clt-gemma-2-2b-2.5M") / "W_dec_3.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        FileError,
        match=rf"'{MNTSS}' was not loaded.*W_dec_3.safetensors' is truncated.*fetched anew once it is deleted",
    ):
        load_transcoder(MNTSS)


MISSING = {
    "Gemma Scope 1": r"has no 'layer_7/width_16k/average_l0_\d+/params.npz', one of 1 of 26 files that it lacks",
    "Gemma Scope 2, per-layer": r"transcoder_all' has no layer_7_width_16k_l0_small_affine; .* and 1 of 26 are missing",
    "Gemma Scope 2, cross-layer": r"affine' has no params_layer_7.safetensors; files of .* and 1 of 26 are missing",
    "mwhanna": r"'mwhanna/qwen3-0.6b-transcoders-lowl0' has no layer_7.safetensors; files .* and 1 of 28 are missing",
    "mntss": r"'mntss/clt-gemma-2-2b-2.5M' has no W_enc_7.safetensors; files of layers .* and 1 of 26 are missing",
}


@pytest.mark.slow
@every_public
def test_a_missing_layer_is_named_before_anything_is_fetched(hub: Hub, name: str) -> None:
    stand_in = stand_ins.ALL[name]
    stand_in.serve(hub)
    for path in sorted(stand_ins.files(hub, stand_in)):
        if re.search(r"(?:layer|W_enc)_7\b|layer_7_", path):
            next(hub.root.glob(f"*/*/{path}")).unlink()
    with pytest.raises(FileError, match=rf"'{stand_in.source}['/@ ].*{MISSING[name]}"):
        load_transcoder(stand_in.source, variant=stand_in.variant)
    assert hub.downloaded() == []


@pytest.mark.slow
def test_a_last_layer_that_is_missing_is_told_by_the_models_number(hub: Hub) -> None:
    stand_ins.mwhanna(hub)
    (hub.repository("mwhanna/qwen3-0.6b-transcoders-lowl0") / "layer_27.safetensors").unlink()
    with pytest.raises(
        FileError,
        match=r"'mwhanna-qwen3-0.6b-transcoders-lowl0' holds files of 27 layers, but Qwen/Qwen3-0.6B has 28: look",
    ):
        load_transcoder("mwhanna-qwen3-0.6b-transcoders-lowl0")


@pytest.mark.slow
def test_a_set_for_another_model_is_refused_by_its_sizes_and_warned_of_by_its_name(hub: Hub) -> None:
    stand_ins.mntss(hub)
    clt = load_transcoder(MNTSS)
    shallow = stand_ins.serve_model(hub, "gemma-2", n_layers=3).bridge()
    with pytest.raises(
        FitError, match=r"This transcoder has 26 layers, but google/gemma-2-2b has 3: it was trained on an"
    ):
        tlc.localize(shallow, clt, "a")
    wide = stand_ins.serve_model(hub, "gemma-3", n_layers=26, hidden_size=8).bridge()
    with pytest.raises(
        FitError, match=r"This transcoder is 4 wide, but google/gemma-3-1b-it has d_model 8: was it trained"
    ):
        tlc.localize(wide, clt, "a")
    alike = stand_ins.serve_model(hub, "gemma-3", n_layers=26).bridge()
    with pytest.warns(
        tlc.TLCircuitsWarning, match=r"trained on 'google/gemma-2-2b', but the model is 'google/gemma-3-1b-"
    ):
        tlc.localize(alike, clt, "a")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "final_sparse_autoencoder_gpt2_blocks.8.pt", "sae.ckpt"])
def test_a_repository_of_pickles_is_refused_with_how_to_convert_them(hub: Hub, name: str) -> None:
    stand_ins.beside(hub.repository("pchlenski/gpt2-transcoders"), name, "README.md")
    with pytest.raises(
        FileError,
        match=rf"'pchlenski/gpt2-transcoders' holds README.md, {name}, and no transcoder in a format.*{name} was left "
        r"shut, since such files can run code: convert it to safetensors .*, download them by `hf download "
        r"pchlenski/gpt2-transcoders --local-dir FOLDER`, then `tl-circuits convert FOLDER OUT`\)",
    ):
        load_transcoder("pchlenski/gpt2-transcoders")
    assert hub.downloaded() == []


@pytest.mark.slow
def test_a_config_on_the_hub_is_read_as_plain_data(hub: Hub) -> None:
    folder = hub.repository("me/clt")
    write_circuit_tracer(folder, cross_layer=True)
    (folder / "config.yaml").write_text("model_kind: !!python/object/apply:pytest.fail ['a tag was executed']")
    with pytest.raises(FileError, match=r"is not plain YAML .*tags that make objects are refused"):
        load_transcoder("me/clt")


def test_names_in_a_listing_make_no_file_outside_of_its_outline() -> None:
    hostile = ("../evil", "a/../../evil", "/tmp/evil", "..\\evil", "a\0b", "n" * 300, "b", "b/c", "W_enc_0.safetensors")
    with outlined(Listing(Address("me/clt"), dict.fromkeys(hostile, 1))) as outline:
        made = {path.relative_to(outline).as_posix() for path in outline.rglob("*")}
        outside = {path.name for path in outline.parent.glob("*evil*")}
    assert made == {"b", "W_enc_0.safetensors"}
    assert outside == set()
    assert not outline.exists()


def test_what_is_recognised_to_be_refused_is_not_fetched(hub: Hub) -> None:
    folder = hub.repository("ByteDance-Seed/Cross-Layer-TopK-CLT")
    write_circuit_tracer(folder, cross_layer=True)
    stand_ins.beside(folder, "W_dec_norm.safetensors")
    with pytest.raises(FileError, match=r"'ByteDance-Seed/Cross-Layer-TopK-CLT' holds a transcoder with a joint top-k"):
        load_transcoder("ByteDance-Seed/Cross-Layer-TopK-CLT")
    assert hub.downloaded() == []


# SAELens's own loaders


@pytest.mark.slow
def test_a_list_of_saes_is_one_transcoder(tmp_path: Path) -> None:
    written = WRITERS["saelens"](tmp_path)
    assert_computes(load_transcoder(list(reversed(tlc.as_saes(load_transcoder(tmp_path))))), written)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a release to SAELens's registry, as its users do."""
    from sae_lens.loading.pretrained_saes_directory import PretrainedSAELookup, get_pretrained_saes_directory

    def add(name: str, repo: str, paths: dict[str, str], loader: str | None = None) -> None:
        nothing: dict[str, Any] = {}
        release = PretrainedSAELookup(name, repo, "gpt2", loader, paths, nothing, nothing, nothing, nothing, None)
        monkeypatch.setitem(get_pretrained_saes_directory(), name, release)

    return add


@pytest.mark.slow
def test_a_release_in_saelenss_own_format_is_loaded_by_saelens(hub: Hub, registered: Callable[..., None]) -> None:
    written = WRITERS["saelens"](hub.repository("me/plt") / "sets")
    registered(
        "my-transcoders", "me/plt", {f"blocks.{layer}.hook_mlp_out": f"sets/layer_{layer}" for layer in range(3)}
    )
    found = load_transcoder("my-transcoders")
    assert_computes(found, written)
    assert found.source == "my-transcoders: me/plt"
    assert_computes(load_transcoder("me/plt/sets"), written)
    assert "my-transcoders" in {release.name for release in tlc.releases("gpt2")}


@pytest.mark.slow
def test_a_release_with_a_loader_of_its_own_is_loaded_by_it(
    registered: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sae_lens.loading.pretrained_sae_loaders import NAMED_PRETRAINED_SAE_LOADERS
    from sae_lens.registry import get_sae_class

    def loader(repo_id: str, folder_name: str, device: str, *_: Any, **__: Any) -> Any:
        layer = int(folder_name)
        if layer == 9:
            raise KeyError("W_enc")
        kind = get_sae_class("standard" if "autoencoder" in repo_id else "transcoder")[1]
        config = kind(
            d_in=4, d_sae=6, **({} if "autoencoder" in repo_id else {"d_out": 4, "apply_b_dec_to_input": False})
        ).to_dict()
        config["metadata"] |= {"hook_name": f"blocks.{layer}.ln2.hook_normalized"}
        config["metadata"] |= {"hook_name_out": f"blocks.{layer}.hook_mlp_out", "model_name": "gpt2"}
        shapes = {"W_enc": (4, 6), "b_enc": (6,), "W_dec": (6, 4), "b_dec": (4,)}
        return config | {"device": device}, {name: torch.ones(shape) for name, shape in shapes.items()}, None

    monkeypatch.setitem(NAMED_PRETRAINED_SAE_LOADERS, "mine", loader)
    registered(
        "mine-plt", "anything", {"layer_0_width_16k": "0", "layer_1_width_16k": "1", "layer_0_width_1m": "0"}, "mine"
    )
    with pytest.raises(FileError, match=r"'mine-plt' holds 2 transcoders \(width_16k, width_1m\): give one"):
        load_transcoder("mine-plt")
    assert load_transcoder("mine-plt", variant="width_16k").n_layers == 2
    registered("mine-sae", "autoencoder", {"layer_0": "0"}, "mine")
    with pytest.raises(FileError, match=r"'mine-sae' was not loaded. 'layer_0' is StandardSAE, and no transcoder"):
        load_transcoder("mine-sae")
    registered("mine-broken", "anything", {"layer_9": "9"}, "mine")
    with pytest.raises(
        FileError, match=r"SAELens could not load 'layer_9' of its release 'mine-broken' \(KeyError: 'W_enc'\): check y"
    ):
        load_transcoder("mine-broken")


# Names are enough

FORMATS: dict[str, Callable[[Path], object]] = {
    **WRITERS,
    "circuit-tracer cross-layer": lambda folder: write_circuit_tracer(folder, cross_layer=True),
    "circuit-tracer per-layer": lambda folder: write_circuit_tracer(folder, cross_layer=False),
    "gemma-scope-1": write_gemma_scope_1,
    "gemma-scope-1 of two sparsities": lambda folder: write_gemma_scope_1(folder, sparsities=(40, 90)),
}


@pytest.mark.parametrize("above", [".", "a", "a/b"])
@pytest.mark.parametrize("writer", FORMATS)
def test_a_format_is_told_from_names_and_loads_from_the_files_it_names(tmp_path: Path, writer: str, above: str) -> None:
    whole, outline = tmp_path / "whole", tmp_path / "outline"
    FORMATS[writer](whole / above)
    stand_ins.beside(whole, "README.md", "a.bin", ".gitattributes")
    for path in (path for path in whole.rglob("*") if path.is_file()):
        (outline / path.relative_to(whole)).parent.mkdir(parents=True, exist_ok=True)
        (outline / path.relative_to(whole)).touch()
    told, there = everything(outline), everything(whole)
    assert [(found.format, found.choice, found.label) for found in told] == [
        (found.format, found.choice, found.label) for found in there
    ]
    assert told
    for found in told:
        assert found == find(outline, variant=found.label or None)
        kept = tmp_path / found.choice.replace("/", "-") / "kept"
        names = [path.relative_to(outline) for path in found.files()]
        assert not {"README.md", "a.bin", ".gitattributes"} & set(map(str, names))
        for name in names:
            (kept / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(whole / name, kept / name)
        loaded, expected = load_folder(kept), load_folder(whole, variant=found.label or None)
        assert_same_weights(loaded, expected)
