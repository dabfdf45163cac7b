"""Transcoders on disk: nothing is lost, nothing is trusted, and circuit-tracer's layout is kept to the letter."""

import json
import pickle
import struct
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from torch import Tensor

from tl_circuits.errors import FileError, FitError
from tl_circuits.transcoder import Activation, BatchTopK, CrossLayerTranscoder, GroupMax, JumpReLU, ReLU, TopK
from tl_circuits.transcoder.files import save_transcoder
from tl_circuits.transcoder.load import load_transcoder

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
BITS = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16, torch.bfloat16: torch.int16}


@st.composite
def transcoders(draw: st.DrawFn) -> CrossLayerTranscoder:
    """Any transcoder that the type allows: every activation, span and dtype, with and without skips and shifts."""
    n_layers, d_model = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    n_features = draw(st.lists(st.integers(1, 6), min_size=n_layers, max_size=n_layers))
    written = [draw(st.integers(1, n_layers - layer)) for layer in range(n_layers)]
    if draw(st.booleans()):
        written = [1] * n_layers
    dtype, decoder_dtype = draw(st.sampled_from(DTYPES)), draw(st.sampled_from(DTYPES))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))

    def weights(*shape: int, dtype: torch.dtype = dtype) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    kind = draw(st.sampled_from(["relu", "jump_relu", "jump_relu at one threshold", "topk", "groupmax", "batch_topk"]))
    if kind == "jump_relu":
        n_features = [n_features[0]] * n_layers
    activation = {
        "relu": ReLU(),
        "jump_relu": JumpReLU(weights(n_layers, n_features[0]), bandwidth=draw(st.sampled_from([0.1, 1.0, 2.0]))),
        "jump_relu at one threshold": JumpReLU(draw(st.floats(-2, 2, width=32))),
        "topk": TopK(draw(st.integers(1, 9)), relu=draw(st.booleans())),
        "groupmax": GroupMax(1),
        "batch_topk": BatchTopK(draw(st.integers(1, 9)), weights(n_layers)),
    }[kind]
    return CrossLayerTranscoder(
        [weights(number, d_model) for number in n_features],
        [weights(number) for number in n_features],
        [weights(n, w, d_model, dtype=decoder_dtype) for n, w in zip(n_features, written, strict=True)],
        weights(n_layers, d_model),
        activation=activation,
        W_skip=weights(n_layers, d_model, d_model) if draw(st.booleans()) else None,
        shift=[weights(n, w) for n, w in zip(n_features, written, strict=True)] if draw(st.booleans()) else None,
        read=draw(st.sampled_from(["hook_resid_mid", "ln2.hook_normalized", "mlp.hook_in"])),
        write="hook_mlp_out",
        model_name=draw(st.sampled_from([None, "gpt2", "1e5", "null", "a: b # ü"])),
        processed_weights=draw(st.booleans()),
    )


def assert_same_bits(found: Tensor, expected: Tensor) -> None:
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    bits = BITS[expected.dtype]
    assert torch.equal(found.detach().contiguous().view(bits), expected.detach().contiguous().view(bits))


def assert_same(found: CrossLayerTranscoder, expected: CrossLayerTranscoder) -> None:
    for name in ("W_enc", "b_enc", "W_dec"):
        for part, want in zip(getattr(found, name), getattr(expected, name), strict=True):
            assert_same_bits(part, want)
    assert_same_bits(found.b_dec, expected.b_dec)
    for name in ("W_skip", "shift"):
        parts, wanted = getattr(found, name), getattr(expected, name)
        assert (parts is None) == (wanted is None), name
        for part, want in zip(parts or (), wanted or (), strict=True):
            assert_same_bits(part, want)
    for name in ("read", "write", "model_name", "processed_weights"):
        assert getattr(found, name) == getattr(expected, name)
    assert type(found.activation) is type(expected.activation)
    for name in ("k", "relu", "bandwidth"):
        assert getattr(found.activation, name, None) == getattr(expected.activation, name, None)
    if isinstance(expected.activation, JumpReLU) and isinstance(found.activation, JumpReLU):
        for layer, n_features in enumerate(expected.n_features):
            threshold = expected.activation.at(layer).expand(n_features)
            assert_same_bits(found.activation.at(layer).expand(n_features), threshold)
    if isinstance(expected.activation, BatchTopK) and isinstance(found.activation, BatchTopK):
        assert_same_bits(found.activation.threshold, expected.activation.threshold)


def cross_layer(n_layers: int = 3, n_features: int = 4, d_model: int = 2) -> CrossLayerTranscoder:
    generator = torch.Generator().manual_seed(0)
    return CrossLayerTranscoder(
        torch.randn(n_layers, n_features, d_model, generator=generator),
        torch.randn(n_layers, n_features, generator=generator),
        [torch.randn(n_features, n_layers - layer, d_model, generator=generator) for layer in range(n_layers)],
        torch.randn(n_layers, d_model, generator=generator),
    )


def per_layer(n_layers: int = 3, activation: Activation | None = None) -> CrossLayerTranscoder:
    whole = cross_layer(n_layers)
    W_dec = torch.stack([rows[:, 0] for rows in whole.W_dec])
    return CrossLayerTranscoder(list(whole.W_enc), list(whole.b_enc), W_dec, whole.b_dec, activation=activation)


# Nothing is lost


@pytest.mark.slow
@given(transcoders())
def test_load_undoes_save_to_the_last_bit(transcoder: CrossLayerTranscoder) -> None:
    with TemporaryDirectory() as folder:
        assert_same(load_transcoder(save_transcoder(transcoder, Path(folder) / "saved")), transcoder)


@pytest.mark.slow
@given(transcoders(), st.integers(0, 2**32))
def test_a_loaded_transcoder_encodes_as_the_saved_one_did(transcoder: CrossLayerTranscoder, seed: int) -> None:
    x = torch.randn(3, transcoder.d_model, generator=torch.Generator().manual_seed(seed))
    with TemporaryDirectory() as folder:
        loaded = load_transcoder(save_transcoder(transcoder, Path(folder) / "saved"))
        for layer in range(transcoder.n_layers):
            assert torch.equal(loaded.eval().encode(x, layer), transcoder.eval().encode(x, layer))


def test_weights_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    rows = torch.randn(2, 3, 3)
    tied = CrossLayerTranscoder(rows, rows[:, 0], rows, rows[:, 1], W_skip=rows)
    assert_same(load_transcoder(save_transcoder(tied, tmp_path / "tied")), tied)


# circuit-tracer's layout, from its description alone


def write_safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """The format by hand: the header's length, the header as JSON, the data."""
    header, data = {}, b""
    for name, array in tensors.items():
        kind = {"float64": "F64", "float32": "F32", "float16": "F16", "int64": "I64"}[array.dtype.name]
        end = len(data) + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(data), end]}
        data += np.ascontiguousarray(array).tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_cross_layer(folder: Path, *, threshold: bool = True, skip: bool = False) -> dict[str, np.ndarray]:
    """A folder as circuit-tracer describes it: 3 layers, 4 features, width 2."""
    folder.mkdir()
    random, tensors = np.random.default_rng(0), {}
    for layer in range(3):
        encoder = {
            f"W_enc_{layer}": random.normal(size=(4, 2)).astype(np.float32),
            f"b_enc_{layer}": random.normal(size=4).astype(np.float32),
            f"b_dec_{layer}": random.normal(size=2).astype(np.float32),
        }
        if threshold:
            encoder[f"threshold_{layer}"] = random.normal(size=4).astype(np.float32)
        if skip:
            encoder[f"W_skip_{layer}"] = random.normal(size=(2, 2)).astype(np.float32)
        decoder = {f"W_dec_{layer}": random.normal(size=(4, 3 - layer, 2)).astype(np.float16)}
        write_safetensors(folder / f"W_enc_{layer}.safetensors", encoder)
        write_safetensors(folder / f"W_dec_{layer}.safetensors", decoder)
        tensors |= encoder | decoder
    (folder / "config.yaml").write_text(
        "model_name: gpt2\nmodel_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\n"
        "feature_output_hook: hook_mlp_out\nscan: someone/somewhere\nextra: {nobody: knows}\n"
    )
    return tensors


def write_per_layer(folder: Path, config: str = "", **tensors: np.ndarray) -> list[dict[str, np.ndarray]]:
    folder.mkdir()
    random, layers = np.random.default_rng(1), []
    for layer in range(3):
        arrays = {
            "W_enc": random.normal(size=(4, 2)).astype(np.float32),
            "W_dec": random.normal(size=(4, 2)).astype(np.float32),
            "b_enc": random.normal(size=4).astype(np.float32),
            "b_dec": random.normal(size=2).astype(np.float32),
        } | tensors
        write_safetensors(folder / f"layer_{layer}.safetensors", arrays)
        layers.append(arrays)
    (folder / "config.yaml").write_text(
        "model_name: gpt2\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        f"feature_output_hook: hook_mlp_out\n{config}"
    )
    return layers


@pytest.mark.parametrize("threshold", [True, False])
def test_a_cross_layer_folder_written_by_hand_computes_what_its_equations_say(tmp_path: Path, threshold: bool) -> None:
    tensors = write_cross_layer(tmp_path / "clt", threshold=threshold)
    clt = load_transcoder(tmp_path / "clt")
    assert (clt.n_layers, clt.n_features, clt.d_model, clt.span) == (3, (4, 4, 4), 2, 3)
    assert (clt.read, clt.write, clt.model_name) == ("hook_resid_mid", "hook_mlp_out", "gpt2")
    assert {rows.dtype for rows in clt.W_dec} == {torch.float16}
    x = np.random.default_rng(2).normal(size=(3, 5, 2)).astype(np.float32)
    features = []
    for layer in range(3):
        h = x[layer] @ tensors[f"W_enc_{layer}"].T + tensors[f"b_enc_{layer}"]
        features.append(h * (h > (tensors[f"threshold_{layer}"] if threshold else 0)))
        np.testing.assert_allclose(clt.encode(torch.tensor(x[layer]), layer), features[layer], rtol=1e-4)
        y = tensors[f"b_dec_{layer}"] + sum(
            features[source] @ tensors[f"W_dec_{source}"][:, layer - source].astype(np.float32)
            for source in range(layer + 1)
        )
        np.testing.assert_allclose(clt.decode([torch.tensor(f) for f in features], layer), y, rtol=1e-4)


def test_a_per_layer_folder_written_by_hand_adds_its_skip_the_right_way_round(tmp_path: Path) -> None:
    W_skip = np.array([[1.0, 2.0], [3.0, 4.0]], dtype=np.float32)
    threshold = np.full(4, 0.5, dtype=np.float32)
    write_per_layer(tmp_path / "plt", **{"W_skip": W_skip, "activation_function.threshold": threshold})
    plt = load_transcoder(tmp_path / "plt")
    assert plt.is_per_layer
    assert isinstance(plt.activation, JumpReLU)
    assert plt.activation.at(1).tolist() == [0.5] * 4
    skipped = plt.skip(torch.tensor([1.0, 0.0]), 1)
    assert skipped is not None
    assert skipped.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("config", "tensors", "expected"),
    [
        ("", {}, ReLU()),
        ("activation: relu\n", {}, ReLU()),
        ("activation: topk\nk: 2\n", {}, TopK(2)),
        ("", {"k": np.array(3)}, TopK(3)),
    ],
)
def test_the_activation_is_read_where_circuit_tracer_writes_it(
    tmp_path: Path, config: str, tensors: dict[str, np.ndarray], expected: ReLU | TopK
) -> None:
    write_per_layer(tmp_path / "plt", config, **tensors)
    found = load_transcoder(tmp_path / "plt").activation
    assert (type(found), getattr(found, "k", None)) == (type(expected), getattr(expected, "k", None))


@pytest.mark.parametrize(("config", "found"), [("", "'2', '3'"), ("k: 4\n", "'2', '3', '4'")])
def test_layers_that_keep_different_numbers_of_features_are_refused(tmp_path: Path, config: str, found: str) -> None:
    write_per_layer(tmp_path / "plt", config, k=np.array(3))
    replace(tmp_path / "plt", "layer_1.safetensors", k=np.array(2))
    with pytest.raises(FileError, match=rf"plt' has more than one k, \[{found}\] in config.yaml and the layers' files"):
        load_transcoder(tmp_path / "plt")


def test_files_that_the_config_lists_are_read_in_its_order(tmp_path: Path) -> None:
    layers = write_per_layer(tmp_path / "plt", "transcoders: [layer_2.safetensors, layer_0.safetensors]\n")
    plt = load_transcoder(tmp_path / "plt")
    assert [rows.tolist() for rows in plt.W_enc] == [layers[2]["W_enc"].tolist(), layers[0]["W_enc"].tolist()]


def test_layers_are_ordered_by_number_and_not_by_name(tmp_path: Path) -> None:
    deep = per_layer(n_layers=11)
    assert_same(load_transcoder(save_transcoder(deep, tmp_path / "deep")), deep)


@pytest.mark.slow
@given(transcoders())
def test_what_is_written_holds_the_names_and_shapes_of_the_layout_and_no_more(
    transcoder: CrossLayerTranscoder,
) -> None:
    # bfloat16 has no NumPy type, and which dtype is written does not change a name.
    transcoder = transcoder.to(torch.float32)
    n_layers, d = transcoder.n_layers, transcoder.d_model
    with TemporaryDirectory() as parent:
        folder = save_transcoder(transcoder, Path(parent) / "saved")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        files = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    has_threshold = isinstance(transcoder.activation, JumpReLU | BatchTopK)
    assert config["feature_input_hook"] == transcoder.read
    assert config["feature_output_hook"] == "hook_mlp_out"
    assert config["model_name"] == transcoder.model_name
    assert config.get("activation") == ("relu" if transcoder.activation.name == "relu" else None)
    expected: dict[str, dict[str, tuple[int, ...]]] = {}
    kind = "transcoder_set" if transcoder.is_per_layer else "cross_layer_transcoder"
    # circuit-tracer refuses a kind that it does not know; it knows no shift, and of a cross-layer transcoder no skip.
    unknown = transcoder.activation.name in ("topk", "groupmax") or transcoder.shift is not None
    unknown |= transcoder.W_skip is not None and not transcoder.is_per_layer
    assert config["model_kind"] == (f"tl_circuits_{kind}" if unknown else kind)
    for layer, n in enumerate(transcoder.n_features):
        if transcoder.is_per_layer:
            names = {"W_enc": (n, d), "W_dec": (n, d), "b_enc": (n,), "b_dec": (d,)}
            threshold, skip, shift, file = "activation_function.threshold", "W_skip", "shift", f"layer_{layer}"
        else:
            names = {f"W_enc_{layer}": (n, d), f"b_enc_{layer}": (n,), f"b_dec_{layer}": (d,)}
            file = f"W_enc_{layer}"
            threshold, skip, shift = f"threshold_{layer}", f"W_skip_{layer}", f"shift_{layer}"
            expected[f"W_dec_{layer}"] = {f"W_dec_{layer}": (n, n_layers - layer, d)}
        names |= {threshold: (n,)} if has_threshold else {}
        names |= (
            {shift: (n, 1 if transcoder.is_per_layer else n_layers - layer)} if transcoder.shift is not None else {}
        )
        expected[file] = names | ({skip: (d, d)} if transcoder.W_skip is not None else {})
    found = {file: {name: array.shape for name, array in arrays.items()} for file, arrays in files.items()}
    assert found == expected


def test_a_limited_span_is_padded_with_zeros_for_other_readers(tmp_path: Path) -> None:
    whole = cross_layer()
    narrow = CrossLayerTranscoder(
        list(whole.W_enc), list(whole.b_enc), [rows[:, :2] for rows in whole.W_dec], whole.b_dec
    )
    folder = save_transcoder(narrow, tmp_path / "narrow")
    rows = load_file(folder / "W_dec_0.safetensors")["W_dec_0"]
    assert rows.shape == (4, 3, 2)
    np.testing.assert_array_equal(rows[:, :2], narrow.W_dec[0])
    assert not rows[:, 2].any()
    assert [rows.shape[1] for rows in load_transcoder(folder).W_dec] == [2, 2, 1]


def test_batch_topk_is_stored_as_the_jump_relu_that_it_is_at_inference(tmp_path: Path) -> None:
    folder = save_transcoder(per_layer(activation=BatchTopK(2, torch.tensor([0.5, -0.5, 0.0]))), tmp_path / "saved")
    stored = [load_file(folder / f"layer_{layer}.safetensors")["activation_function.threshold"] for layer in range(3)]
    assert [set(row.tolist()) for row in stored] == [{0.5}, {0.0}, {0.0}]


# Decoders are mapped, not read


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_loading_maps_the_decoders_instead_of_reading_them(tmp_path: Path) -> None:
    n_layers, n_features, d_model = 64, 131_072, 32
    write_holes(
        tmp_path / "W_enc_0.safetensors", W_enc_0=[n_features, d_model], b_enc_0=[n_features], b_dec_0=[d_model]
    )
    write_holes(tmp_path / "W_dec_0.safetensors", W_dec_0=[n_features, n_layers, d_model])
    for layer in range(1, n_layers):
        shapes = {f"W_enc_{layer}": [1, d_model], f"b_enc_{layer}": [1], f"b_dec_{layer}": [d_model]}
        write_holes(tmp_path / f"W_enc_{layer}.safetensors", **shapes)
        write_holes(tmp_path / f"W_dec_{layer}.safetensors", **{f"W_dec_{layer}": [1, n_layers - layer, d_model]})
    (tmp_path / "config.yaml").write_text(
        "model_kind: cross_layer_transcoder\nfeature_input_hook: hook_resid_mid\nfeature_output_hook: hook_mlp_out\n"
    )
    decoder = (tmp_path / "W_dec_0.safetensors").stat().st_size
    before = resident()
    clt = load_transcoder(tmp_path)
    rows = clt.decoder_rows(0, torch.tensor([0, 70_000, n_features - 1]))
    grown = resident() - before
    assert rows.shape == (3, n_layers, d_model)
    assert decoder > 2**29
    assert grown < decoder / 8, f"{grown} bytes became resident; the decoder has {decoder}"


def write_holes(path: Path, **shapes: list[int]) -> None:
    """A safetensors file of bfloat16 zeros that takes no room on disk."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)


def resident() -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_a_nan_decoder_row_is_found_when_it_is_read(tmp_path: Path) -> None:
    clt = cross_layer()
    clt.W_dec[0].data[2, 1, 0] = float("nan")
    loaded = load_transcoder(save_transcoder(clt, tmp_path / "clt"))
    assert loaded.decoder_rows(0, torch.tensor([0, 1])).shape == (2, 3, 2)
    with pytest.raises(FitError, match=r"W_dec\[0\] holds NaN or infinity in the rows of features \[2\]"):
        loaded.decoder_rows(0, torch.tensor([1, 2]))


# Whole or not at all


def test_weights_may_be_read_by_whom_other_files_may_be(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    files = [path for path in folder.iterdir() if path.is_file()]
    assert {path.stat().st_mode for path in files} == {plain.stat().st_mode}


def test_an_existing_folder_is_replaced_only_when_told(tmp_path: Path) -> None:
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    with pytest.raises(
        FileError, match=r"exists and holds 7 files: give overwrite=True \(--overwrite\) to replace it, or another"
    ):
        save_transcoder(per_layer(), folder)
    assert_same(load_transcoder(folder), cross_layer())
    save_transcoder(per_layer(), folder, overwrite=True)
    assert_same(load_transcoder(folder), per_layer())
    assert [path.name for path in tmp_path.iterdir()] == ["clt"]


def test_a_transcoder_may_be_saved_over_the_folder_that_it_is_mapped_from(tmp_path: Path) -> None:
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    mapped = load_transcoder(folder)
    save_transcoder(mapped, folder, overwrite=True)
    assert_same(mapped, cross_layer())
    assert_same(load_transcoder(folder), cross_layer())


def test_a_folder_that_holds_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileError, match=r"holds more than a transcoder \(thesis.tex\), so it is not replaced"):
        save_transcoder(cross_layer(), tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_save_that_fails_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    real = "tl_circuits.transcoder.files.tensors.save_file"
    written: list[Path] = []

    def full(tensors: dict[str, Tensor], path: Path) -> None:  # noqa: ARG001
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        path.write_bytes(b"half")

    monkeypatch.setattr(real, full)
    with pytest.raises(FileError, match=r"No space left on device\): free space there, or give another folder"):
        save_transcoder(per_layer(), folder, overwrite=True)
    with pytest.raises(FileError, match="No space left on device"):
        save_transcoder(per_layer(), tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["clt"]
    assert_same(load_transcoder(folder), cross_layer())


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "clt").write_text("")
    with pytest.raises(FileError, match=r"clt' is a file: give the name of a folder"):
        save_transcoder(cross_layer(), tmp_path / "clt")


# Nothing is trusted


@pytest.mark.slow
@given(st.data())
def test_a_file_cut_anywhere_is_refused(data: st.DataObject) -> None:
    with TemporaryDirectory() as parent:
        folder = save_transcoder(data.draw(st.sampled_from([cross_layer(), per_layer()])), Path(parent) / "saved")
        path = data.draw(st.sampled_from(sorted(folder.glob("*.safetensors"))))
        whole = path.read_bytes()
        kept = data.draw(st.integers(0, len(whole) - 1))
        path.write_bytes(whole[:kept])
        header = 8 + int.from_bytes(whole[:8], "little")
        expected = f"asks for {len(whole)} bytes" if kept >= header else f"asks for at least {header} bytes"
        message = rf"is truncated: its header {expected} and {kept} are there. Fetch the file again"
        with pytest.raises(FileError, match=message if kept >= 8 else rf"\({kept} bytes\) is not a safetensors file"):
            load_transcoder(folder)


@pytest.mark.slow
@given(st.data())
def test_a_damaged_file_loads_or_raises_a_file_error_and_nothing_else(data: st.DataObject) -> None:
    with TemporaryDirectory() as parent:
        folder = save_transcoder(data.draw(st.sampled_from([cross_layer(), per_layer()])), Path(parent) / "saved")
        path = data.draw(st.sampled_from(sorted(folder.iterdir())))
        damaged = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        path.write_bytes(damaged)
        with suppress(FileError):
            load_transcoder(folder)


def test_a_longer_file_is_refused(tmp_path: Path) -> None:
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    path = folder / "W_enc_1.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 5)
    with pytest.raises(FileError, match=rf"is {len(whole) + 5} bytes long, but its header describes {len(whole)}"):
        load_transcoder(folder)


class Evil:
    """Opens a door when it is unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("name", ["transcoder.pt", "model.bin", "weights.PKL"])
def test_a_pickle_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(FileError, match=r"can run code when they are opened.*convert it to safetensors"):
        load_transcoder(tmp_path / name)


@pytest.mark.parametrize("start", [pickle.dumps(Evil()), b"PK\x03\x04\x00\x00\x08\x08" + b"\0" * 100])
def test_a_pickle_under_another_name_is_refused_by_its_first_bytes(tmp_path: Path, start: bytes) -> None:
    folder = save_transcoder(per_layer(), tmp_path / "plt")
    (folder / "layer_1.safetensors").write_bytes(start)
    with pytest.raises(FileError, match=r"layer_1.safetensors' is a zip archive or a pickle under another name"):
        load_transcoder(folder)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    folder = save_transcoder(per_layer(), tmp_path / "plt")
    for path in folder.glob("*.safetensors"):
        path.rename(path.with_suffix(".pt"))
    with pytest.raises(FileError, match=r"has no layer_0.safetensors .*layer_0.pt was left shut"):
        load_transcoder(folder)


def rewrite(folder: Path, **settings: object) -> None:
    config = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump(config | settings))


def remove(folder: Path, name: str) -> None:
    (folder / name).unlink()


def rename(folder: Path, old: str, new: str) -> None:
    (folder / old).rename(folder / new)


def replace(folder: Path, name: str, **tensors: np.ndarray) -> None:
    write_safetensors(folder / name, load_file(folder / name) | tensors)


NAN, ONES = np.full(4, np.nan, np.float32), np.ones
CROSS_LAYER_FAULTS = {
    "missing config": (lambda f: remove(f, "config.yaml"), r"has no config.yaml \(it holds W_dec_0.*model_kind \("),
    "missing encoder": (
        lambda f: remove(f, "W_enc_1.safetensors"),
        r"has no W_enc_1.safetensors; files of layers 0, 2 are there, and 1 of 3 are missing: fetch them",
    ),
    "missing decoder": (
        lambda f: remove(f, "W_dec_2.safetensors"),
        r"W_enc files for layers 0 to 2 and W_dec files for layers 0 to 1: one of each",
    ),
    "missing last layer": (
        lambda f: (remove(f, "W_enc_2.safetensors"), remove(f, "W_dec_2.safetensors")),
        r"W_dec_0 in .* writes layers 0 to 2, but only files of layers 0 to 1 are there: fetch the missing ones",
    ),
    "renamed file": (
        lambda f: (
            (rename(f, "W_enc_0.safetensors", "x"), rename(f, "W_enc_2.safetensors", "W_enc_0.safetensors"))
            and rename(f, "x", "W_enc_2.safetensors")
        ),
        r"W_enc_0.safetensors' holds W_enc_2, b_dec_2, b_enc_2, but no W_enc_0: was the file renamed",
    ),
    "distant file": (
        lambda f: rename(f, "W_enc_2.safetensors", "W_enc_99999999999.safetensors"),
        r"has no W_enc_2.safetensors; files of layers 0, 1, 99999999999 are there, and 99999999997 of 100000000000",
    ),
    "transposed encoder": (
        lambda f: replace(f, "W_enc_0.safetensors", W_enc_0=ONES((2, 4), np.float32)),
        r"b_enc_0 in .* has shape \(4,\), but \(2\) was expected .*Transpose it",
    ),
    "another width": (
        lambda f: replace(f, "W_enc_1.safetensors", W_enc_1=ONES((4, 3), np.float32)),
        r"W_enc_1 in .* has shape \(4, 3\), but \(any, 2\) was expected",
    ),
    "narrow decoder": (
        lambda f: replace(f, "W_dec_0.safetensors", W_dec_0=ONES((4, 2, 2), np.float32)),
        r"W_dec_0 in .* has shape \(4, 2, 2\), but \(4, 3, 2\) was expected",
    ),
    "integers": (
        lambda f: replace(f, "W_enc_0.safetensors", b_enc_0=ONES(4, np.int64)),
        r"b_enc_0 in .* is stored as I64, and BF16, F16, F32, F64 are read: convert it",
    ),
    "nan bias": (
        lambda f: replace(f, "W_enc_0.safetensors", b_enc_0=NAN),
        r"b_enc\[0\] holds 4 NaN or infinite numbers of 4",
    ),
    "infinite encoder": (
        lambda f: replace(f, "W_enc_2.safetensors", W_enc_2=np.full((4, 2), np.inf, np.float32)),
        r"W_enc\[2\] holds 8 NaN or infinite numbers of 8",
    ),
    "some thresholds": (
        lambda f: replace(f, "W_enc_1.safetensors", threshold_1=ONES(4, np.float32)),
        r"says activation: relu, but there are thresholds for layers 1",
    ),
    "nan threshold": (
        lambda f: (
            [replace(f, f"W_enc_{layer}.safetensors", **{f"threshold_{layer}": NAN}) for layer in range(3)],
            rewrite(f, activation=None, tl_circuits=None),
        ),
        r"12 of 12 JumpReLU thresholds are NaN",
    ),
    "some skips": (
        lambda f: replace(f, "W_enc_1.safetensors", W_skip_1=ONES((2, 2), np.float32)),
        r"has skip weights for layers 1 of 3 only: fetch it again",
    ),
    "some shifts": (
        lambda f: replace(f, "W_enc_1.safetensors", shift_1=ONES((4, 2), np.float32)),
        r"has shifts for layers 1 of 3 only: fetch it again",
    ),
    "shifts of another span": (
        lambda f: replace(f, "W_enc_1.safetensors", shift_1=ONES((4, 3), np.float32)),
        r"shift_1 in .*W_enc_1.safetensors' has shape \(4, 3\), but \(4, 2\) was expected",
    ),
    "unknown kind": (lambda f: rewrite(f, model_kind="sae"), r"model_kind: 'sae' in .* is unknown: cross_layer_transc"),
    "no hook": (lambda f: rewrite(f, feature_input_hook=None), r"feature_input_hook: None in .* names no hook point"),
    "no name": (lambda f: rewrite(f, model_name=3), r"model_name: 3 in .* is no name: give text, or leave it out"),
    "no table": (lambda f: (f / "config.yaml").write_text("- a"), r"holds list, not a table of settings"),
    "a tag": (
        lambda f: (f / "config.yaml").write_text(
            "model_kind: !!python/object/apply:pytest.fail ['a tag was executed']"
        ),
        r"is not plain YAML \(could not determine a constructor.*tags that make objects are refused",
    ),
    "an alias": (
        lambda f: (f / "config.yaml").write_text("a: &a [0, 0]\nmodel_kind: [*a, *a]\n"),
        r"is not plain YAML \(an alias is used.*line 2, column 14.*and so are aliases; fetch",
    ),
    "an endless value": (
        lambda f: rewrite(f, model_kind=["x" * 99] * 999),
        r"model_kind: \['x{99}', 'x{95} in .* is unknown: cross_layer_transc",
    ),
    "bad text": (lambda f: (f / "config.yaml").write_bytes(b"\xff\xfe\xff"), r"is not plain YAML"),
    "deep nesting": (lambda f: (f / "config.yaml").write_text("[" * 100_000), r"is not plain YAML"),
    "unknown activation": (
        lambda f: rewrite(f, tl_circuits=None, activation="gelu"),
        r"activation: 'gelu' in .* is unknown: relu, jump_relu, topk, groupmax and batch_topk are read",
    ),
    "topk without k": (
        lambda f: rewrite(f, tl_circuits=None, activation="topk"),
        r"'topk'\}, and 'k' is missing: correct",
    ),
    "bad k": (
        lambda f: rewrite(f, tl_circuits=None, activation="topk", k="many"),
        r"k: 'many' is not a positive whole",
    ),
    "newer format": (
        lambda f: rewrite(f, tl_circuits={"format": 2}),
        r"in format 2 of tl_circuits, and this version reads",
    ),
    "bad table": (lambda f: rewrite(f, tl_circuits=[1]), r"tl_circuits: \[1\] in .* is not a table of settings"),
    "bad span": (
        lambda f: rewrite(f, tl_circuits={"written": [3, 2, "1"]}),
        r"written: \[3, 2, '1'\] .* not a count of",
    ),
    "wide span": (
        lambda f: rewrite(f, tl_circuits={"written": [3, 2, 2]}),
        r"is more than the decoders hold, \[3, 2, 1\]",
    ),
    "bad flag": (
        lambda f: rewrite(f, tl_circuits={"processed_weights": "no"}),
        r"processed_weights: 'no' in .* is neither",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", CROSS_LAYER_FAULTS)
def test_a_faulty_cross_layer_folder_is_refused_with_its_numbers(tmp_path: Path, fault: str) -> None:
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    damage, message = CROSS_LAYER_FAULTS[fault]
    damage(folder)
    with pytest.raises(FileError, match=message) as caught:
        load_transcoder(folder)
    assert str(folder) in str(caught.value)


PER_LAYER_FAULTS = {
    "missing layer": (
        lambda f: remove(f, "layer_0.safetensors"),
        r"has no layer_0.safetensors; files of layers 1, 2 are there, and 1 of 3 are missing: fetch them",
    ),
    "missing last layer": (
        lambda f: remove(f, "layer_2.safetensors"),
        r"config.yaml' tells of 3 layers, but files of layers 0 to 1 are there: fetch the rest",
    ),
    "another width": (
        lambda f: replace(f, "layer_1.safetensors", W_dec=ONES((4, 3), np.float32)),
        r"W_dec in .*layer_1.safetensors' has shape \(4, 3\), but \(4, 2\) was expected",
    ),
    "a way out": (
        lambda f: rewrite(f, transcoders=["../../secret.safetensors"] * 3),
        r"'../../secret.safetensors' in .* leads out of the folder, so it was not opened: name a file in it",
    ),
    "an absolute way out": (lambda f: rewrite(f, transcoders=["/etc/x.safetensors"]), r"leads out of the folder"),
    "another way out": (lambda f: rewrite(f, transcoders=["a\\..\\..\\x.safetensors"]), r"leads out of the folder"),
    "a drive": (lambda f: rewrite(f, transcoders=["C:x.safetensors"]), r"leads out of the folder"),
    "elsewhere": (
        lambda f: rewrite(f, transcoders=["https://example.org/layer_0/params.npz"]),
        r"'https://example.*' in .* is no file of the hub: hf://org/name/folder/file is read",
    ),
    "a pickle": (lambda f: rewrite(f, transcoders=["layer_0.pt"]), r"'layer_0.pt' in .* is no safetensors file in the"),
    "no list": (lambda f: rewrite(f, transcoders={"0": "a"}), r"transcoders: \{'0': 'a'\} in .* is not a list of file"),
}


@pytest.mark.parametrize("fault", PER_LAYER_FAULTS)
def test_a_faulty_per_layer_folder_is_refused_with_its_numbers(tmp_path: Path, fault: str) -> None:
    folder = save_transcoder(per_layer(), tmp_path / "plt")
    damage, message = PER_LAYER_FAULTS[fault]
    damage(folder)
    with pytest.raises(FileError, match=message) as caught:
        load_transcoder(folder)
    assert str(folder) in str(caught.value)


def test_files_that_a_cross_layer_config_lists_and_that_are_none_of_its_own_are_refused(tmp_path: Path) -> None:
    folder = save_transcoder(cross_layer(), tmp_path / "clt")
    write_safetensors(folder / "layer_0.safetensors", {"W_enc": np.zeros((3, 4), np.float32)})
    rewrite(folder, transcoders=["layer_0.safetensors"])
    with pytest.raises(FileError, match=r"lists 1 files that are no part of .* first .*layer_0.* Leave `transcoders`"):
        load_transcoder(folder)


def test_a_batch_topk_with_too_few_thresholds_is_refused(tmp_path: Path) -> None:
    folder = save_transcoder(per_layer(activation=BatchTopK(2, torch.ones(3))), tmp_path / "plt")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["tl_circuits"]["activation"]["threshold"] = [1.0]
    rewrite(folder, **config)
    with pytest.raises(FileError, match="1 thresholds do not suit 3 layers: correct it"):
        load_transcoder(folder)


def test_a_path_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no folder '.*nowhere' on this machine: check the path"):
        load_transcoder(tmp_path / "nowhere")
    folder = save_transcoder(per_layer(), tmp_path / "plt")
    with pytest.raises(FileError, match=r"config.yaml' is a file: give the folder that holds it, '.*plt'"):
        load_transcoder(folder / "config.yaml")
