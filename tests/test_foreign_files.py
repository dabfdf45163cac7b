"""Transcoders as other packages write them: each computes what its own package's formulas say, or is refused."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from tests.formats import WRITERS
from tests.formats.clt_forge import write_clt_forge
from tests.formats.clt_training import Run, write_clt_training
from tests.formats.crosslayer_coding import write_crosslayer_coding
from tests.formats.crosslayer_transcoder import write_crosslayer_transcoder
from tests.formats.formulas import assert_computes, store
from tests.formats.gemma_scope import CONFIG, write_gemma_scope_1, write_gemma_scope_2
from tl_circuits.errors import FileError, SettingError
from tl_circuits.transcoder import BatchTopK, GroupMax, JumpReLU, TopK
from tl_circuits.transcoder.files import load_folder, save_transcoder
from tl_circuits.transcoder.load import load_transcoder

# Gemma Scope 1


@pytest.mark.parametrize("compressed", [False, True])
def test_gemma_scope_1_computes_what_its_formula_says(tmp_path: Path, compressed: bool) -> None:
    written = write_gemma_scope_1(tmp_path, compressed=compressed)
    assert_computes(load_folder(tmp_path), written)


def test_gemma_scope_1_orders_more_than_ten_layers_by_number(tmp_path: Path) -> None:
    written = write_gemma_scope_1(tmp_path, n_layers=12)
    assert_computes(load_folder(tmp_path), written)


def test_gemma_scope_1_takes_the_sparsity_nearest_to_the_named_one_at_each_layer(tmp_path: Path) -> None:
    written = write_gemma_scope_1(tmp_path, sparsities=(40, 90))
    with pytest.raises(FileError, match=r"holds 2 transcoders \(width_16k/average_l0_40, width_16k/average_l0_90\)"):
        load_folder(tmp_path)
    assert_computes(load_folder(tmp_path, variant="width_16k/average_l0_40"), written)
    with pytest.raises(FileError, match=r"no variant 'width_1m' in .*, which holds width_16k/average_l0_40"):
        load_folder(tmp_path, variant="width_1m")


def test_gemma_scope_1_maps_its_archives_and_never_writes_to_them(tmp_path: Path) -> None:
    write_gemma_scope_1(tmp_path)
    path = next(tmp_path.glob("layer_0/**/params.npz"))
    whole = path.read_bytes()
    plt = load_folder(tmp_path)
    plt.W_dec[0].data.zero_()
    assert path.read_bytes() == whole
    memory = plt.W_enc[0].untyped_storage().nbytes()
    assert memory == 4 * 6 * 4, "the mapped array alone, without a copy of the archive"


def test_a_pickle_inside_an_archive_is_not_opened(tmp_path: Path) -> None:
    write_gemma_scope_1(tmp_path)
    path = next(tmp_path.glob("layer_1/**/params.npz"))

    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was executed",))

    evil = np.array([Evil()], dtype=object)
    for save in (np.savez, np.savez_compressed):
        save(path, W_enc=np.ones((4, 6)), threshold=evil)
        with pytest.raises(FileError, match=r"params.npz' is not a whole NumPy archive of plain numbers .*not opened"):
            load_folder(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 200, -1])
def test_a_half_downloaded_archive_is_refused(tmp_path: Path, kept: int) -> None:
    write_gemma_scope_1(tmp_path)
    path = next(tmp_path.glob("layer_2/**/params.npz"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(FileError, match=r"params.npz' is not a whole NumPy archive .*: fetch it again"):
        load_folder(tmp_path)


# Gemma Scope 2


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("cross_layer", [False, True])
def test_gemma_scope_2_computes_what_its_formula_says(tmp_path: Path, cross_layer: bool, affine: bool) -> None:
    written = write_gemma_scope_2(tmp_path, cross_layer=cross_layer, affine=affine)
    found = load_folder(tmp_path)
    assert_computes(found, written)
    assert (found.span, found.W_skip is not None) == (3 if cross_layer else 1, affine)


@pytest.mark.parametrize("cross_layer", [False, True])
def test_gemma_scope_2_keeps_its_last_layer_and_orders_layers_by_number(tmp_path: Path, cross_layer: bool) -> None:
    written = write_gemma_scope_2(tmp_path, cross_layer=cross_layer, n_layers=12)
    found = load_folder(tmp_path)
    assert found.n_layers == 12
    assert_computes(found, written)


def test_gemma_scope_2_decoders_are_views_of_the_mapped_file(tmp_path: Path) -> None:
    write_gemma_scope_2(tmp_path, cross_layer=True)
    rows = load_folder(tmp_path).W_dec[2]
    assert rows.shape == (6, 1, 4)
    assert rows.stride() == (3 * 4, 4, 1), "columns for lower layers are skipped, not copied away"


def test_a_repository_with_many_sets_asks_which_one(tmp_path: Path) -> None:
    write_gemma_scope_2(tmp_path / "clt" / "width_262k_l0_big_affine", cross_layer=True)
    write_gemma_scope_2(tmp_path / "transcoder_all", cross_layer=False, affine=False)
    small = write_gemma_scope_2(tmp_path / "transcoder_all", cross_layer=False, variant="width_16k_l0_small_affine")
    with pytest.raises(
        FileError,
        match=r"holds 3 transcoders \(clt/width_262k_l0_big_affine, transcoder_all/width_16k_l0_small, "
        r"transcoder_all/width_16k_l0_small_affine\): give one of these as variant",
    ):
        load_folder(tmp_path)
    assert_computes(load_folder(tmp_path, variant="transcoder_all/width_16k_l0_small_affine"), small)
    assert load_transcoder(tmp_path, variant="clt/width_262k_l0_big_affine").span == 3


def test_where_gemma_scope_2_reads_is_what_its_config_says(tmp_path: Path) -> None:
    before = "model.layers.0.pre_feedforward_layernorm.input"
    write_gemma_scope_2(tmp_path / "a", cross_layer=True, config=CONFIG | {"hf_hook_point_in": before})
    assert load_folder(tmp_path / "a").read == "hook_resid_mid"
    elsewhere = "model.layers.0.self_attn.o_proj.input"
    write_gemma_scope_2(tmp_path / "b", cross_layer=True, config=CONFIG | {"hf_hook_point_in": elsewhere})
    with pytest.raises(FileError, match=r"input of 'model.layers.0.self_attn.o_proj', .*not known to be a place"):
        load_folder(tmp_path / "b")


# clt-training

RUNS = {
    "untied": Run(),
    "untied, a limited span": Run(n_layers=4, cross_layer=2),
    "per layer": Run(cross_layer=0, skip_connection=True, post_encoder_scale=True),
    "tied by source": Run(per_source_tied=True, post_encoder_scale=True),
    "tied by source and by target": Run(per_source_tied=True, secondary_target_tied=True, skip_connection=True),
    "tied by target as well": Run(secondary_target_tied=True, divide_cross_layer=True),
    "tied by target": Run(coalesce_topk="concat", skip_connection=True, post_encoder_scale=True),
    "tied by target, normalised": Run(coalesce_topk="concat", skip_connection=True, normalize_io=True),
    "by target, each source its part": Run(n_layers=4, cross_layer=2, coalesce_topk="per-layer"),
    "normalised": Run(normalize_io=True, skip_connection=True),
    "divided": Run(n_layers=4, cross_layer=3, divide_cross_layer=True, normalize_io=True),
    "groupmax": Run(activation="groupmax"),
    "more than ten layers": Run(n_layers=12, cross_layer=2),
    "before the norm": Run(
        hookpoints="layers.{}.mlp",
        hookpoints_in="layers.{}.post_attention_layernorm",
        model="meta-llama/Llama-3.2-1B",
        places=("hook_resid_mid", "hook_mlp_out"),
    ),
    "a norm after the MLP": Run(
        hookpoints="layers.{}.post_feedforward_layernorm",
        hookpoints_in="layers.{}.mlp",
        model="google/gemma-2-2b",
        places=("mlp.hook_in", "hook_mlp_out"),
    ),
    "before the norm after the MLP": Run(
        hookpoints="layers.{}.mlp", model="google/gemma-2-2b", places=("mlp.hook_in", "mlp.hook_out")
    ),
    "seeds": Run(seed="seed3"),
}


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("name", RUNS)
def test_clt_training_computes_what_its_runner_does(tmp_path: Path, name: str, shifted: bool) -> None:
    written = write_clt_training(tmp_path, replace(RUNS[name], train_post_encoder=shifted))
    found = load_folder(tmp_path)
    assert (found.shift is not None) == shifted, "shifts that are all 0 are left out"
    assert_computes(found, written)


def test_a_run_from_before_there_were_post_encoders_has_no_shift(tmp_path: Path) -> None:
    written = write_clt_training(tmp_path, Run())
    for path in tmp_path.glob("*/sae.safetensors"):
        arrays = load_file(path)
        save_file({name: array for name, array in arrays.items() if not name.startswith("post_enc")}, path)
    found = load_folder(tmp_path)
    assert found.shift is None
    assert_computes(found, written)


def test_a_post_encoder_that_is_missing_for_one_target_is_not_taken_for_zero(tmp_path: Path) -> None:
    write_clt_training(tmp_path, Run(train_post_encoder=True))
    path = tmp_path / "h.0.mlp" / "sae.safetensors"
    save_file({name: array for name, array in load_file(path).items() if name != "post_encs.1"}, path)
    with pytest.raises(FileError, match=r"but no post_encs.1: was the file renamed"):
        load_folder(tmp_path)


def test_one_seed_of_several_is_chosen(tmp_path: Path) -> None:
    write_clt_training(tmp_path, Run(seed="seed0", activation="groupmax"))
    written = write_clt_training(tmp_path, Run(seed="seed1"))
    with pytest.raises(FileError, match=r"holds 2 transcoders \(seed0, seed1\): give one of these as variant"):
        load_folder(tmp_path)
    assert_computes(load_folder(tmp_path, variant="seed1"), written)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "batchtopk"}, r"activation: 'batchtopk' in .* is decided over a whole batch, and no threshold"),
        ({"transcode": False}, r"transcode: False in .* is not set: this is an autoencoder"),
        ({"coalesce_topk": "group"}, r"coalesce_topk: 'group' in .* is unknown: concat, none, per-layer are read"),
        ({"coalesce_topk": "concat", "topk_coalesced": True}, r"topk_coalesced: True in .* features of several layers"),
        ({"n_targets": 5}, r"n_targets: 5 in .* reaches layer 4, but hookpoints of 3 layers are there"),
        ({"k": 0}, r"k: 0 in .* is not a whole number of at least 1"),
        ({"normalize_io": "yes"}, r"normalize_io: 'yes' in .* is neither true nor false"),
    ],
)
def test_what_clt_training_holds_beyond_the_type_is_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    write_clt_training(tmp_path, Run(more=changes))
    with pytest.raises(FileError, match=message):
        load_folder(tmp_path)


def test_a_skip_between_layers_is_refused_unless_it_is_zero(tmp_path: Path) -> None:
    write_clt_training(tmp_path, Run(skip_connection=True))
    change(tmp_path / "h.0.mlp" / "sae.safetensors", "W_skips.1", at=1.0)
    with pytest.raises(FileError, match=r"W_skips.1 in .* holds 1 of 16 numbers that are not 0: .* stays in its layer"):
        load_folder(tmp_path)


def test_hookpoints_of_whole_blocks_are_refused(tmp_path: Path) -> None:
    write_clt_training(tmp_path, Run(hookpoints="layers.{}"))
    with pytest.raises(FileError, match=r"input of 'layers.0', read according to .*config.json'"):
        load_folder(tmp_path)


# crosslayer-transcoder


@pytest.mark.parametrize("nonlinearity", ["ReLU", "JumpReLU", "PerLayerTopK", "BatchTopK", "PerLayerBatchTopK"])
def test_crosslayer_transcoder_computes_what_its_modules_do(tmp_path: Path, nonlinearity: str) -> None:
    written = write_crosslayer_transcoder(tmp_path, nonlinearity=nonlinearity)
    assert_computes(load_folder(tmp_path), written)


@pytest.mark.parametrize("per_layer", [False, True])
@pytest.mark.parametrize("standardizer", [None, "Layerwise", "Dimensionwise"])
def test_standardizers_are_folded(tmp_path: Path, standardizer: str | None, per_layer: bool) -> None:
    written = write_crosslayer_transcoder(tmp_path, standardizer=standardizer, per_layer=per_layer)
    assert_computes(load_folder(tmp_path), written)


def test_a_standardizer_that_is_no_linear_map_is_refused(tmp_path: Path) -> None:
    write_crosslayer_transcoder(tmp_path, standardizer="Samplewise")
    with pytest.raises(FileError, match=r"SamplewiseInputStandardizer' in .* is no class that can be read exactly"):
        load_folder(tmp_path)


# crosslayer-coding


@pytest.mark.parametrize("tying", ["none", "per_source", "per_target"])
@pytest.mark.parametrize("normalization", ["none", "mean_std", "sqrt_d_model"])
@pytest.mark.parametrize("offset", [False, True])
def test_crosslayer_coding_computes_what_its_modules_do(
    tmp_path: Path, tying: str, normalization: str, offset: bool
) -> None:
    tied = tying != "none"
    written = write_crosslayer_coding(
        tmp_path, tying=tying, normalization=normalization, skip=True, scale=tied, offset=offset
    )
    found = load_folder(tmp_path)
    assert (found.shift is not None) == (tied and offset)
    assert_computes(found, written)


@pytest.mark.parametrize("activation", ["relu", "topk"])
def test_crosslayer_coding_has_other_activations(tmp_path: Path, activation: str) -> None:
    written = write_crosslayer_coding(tmp_path, activation=activation, tying="per_source", scale=True, offset=True)
    assert_computes(load_folder(tmp_path), written)


def test_one_checkpoint_of_several_is_chosen(tmp_path: Path) -> None:
    write_crosslayer_coding(tmp_path, activation="relu", file="clt_checkpoint_100.safetensors")
    written = write_crosslayer_coding(tmp_path, file="clt_checkpoint_latest.safetensors")
    with pytest.raises(FileError, match=r"holds 2 transcoders \(clt_checkpoint_100, clt_checkpoint_latest\)"):
        load_folder(tmp_path)
    assert_computes(load_folder(tmp_path, variant="clt_checkpoint_latest"), written)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"activation_fn": "batchtopk"}, r"activation_fn: 'batchtopk' in .* convert_batchtopk_to_jumprelu.py first"),
        ({"activation_fn": "topk", "topk_mode": "global"}, r"topk_mode: 'global' in .* only per_layer is read"),
        ({"activation_fn": "topk", "topk_k": float("nan")}, r"topk_k: nan in .* is not a positive number"),
        ({"normalization_method": "mean_std"}, r"there is no '.*norm_stats.json': copy norm_stats.json there"),
        ({"mlp_input_template": None}, r"does not say what it reads: set tl_input_template"),
        ({"num_layers": 4}, r"but no decoder_module.decoders.0->3.weight"),
        ({"d_model": 5}, r"has shape \(4,\), but \(5\) was expected"),
    ],
)
def test_what_crosslayer_coding_leaves_open_is_refused(
    tmp_path: Path, settings: dict[str, object], message: str
) -> None:
    write_crosslayer_coding(tmp_path)
    path = tmp_path / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(FileError, match=message):
        load_folder(tmp_path)


def test_skips_between_layers_of_crosslayer_coding_are_refused(tmp_path: Path) -> None:
    write_crosslayer_coding(tmp_path, skip=True)
    change(tmp_path / "model.safetensors", "decoder_module.skip_weights.0->2", at=0.5)
    with pytest.raises(FileError, match=r"skip_weights.0->2 in .* holds 1 of 16 numbers that are not 0"):
        load_folder(tmp_path)


# CLT-Forge


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("cross_layer", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_clt_forge_computes_what_its_module_does(tmp_path: Path, ranks: int, cross_layer: bool, scaled: bool) -> None:
    written = write_clt_forge(tmp_path, cross_layer=cross_layer, ranks=ranks, scaled=scaled)
    assert_computes(load_folder(tmp_path), written)


def test_decoders_of_clt_forge_stay_mapped_where_nothing_is_scaled(tmp_path: Path) -> None:
    write_clt_forge(tmp_path, scaled=False)
    rows = load_folder(tmp_path).W_dec[1]
    assert rows.shape == (6, 2, 4)
    assert rows.stride() == (4, 6 * 4, 1), "pairs of the file, seen as rows of features"


def test_a_missing_rank_is_named(tmp_path: Path) -> None:
    write_clt_forge(tmp_path, ranks=3)
    (tmp_path / "rank1_clt_weights.safetensors").unlink()
    with pytest.raises(FileError, match=r"has no rank1_clt_weights.safetensors; files of layers 0, 2 are there"):
        load_folder(tmp_path)


# Joint top-k


def test_a_joint_top_k_is_refused_with_the_reason(tmp_path: Path) -> None:
    for layer in range(2):
        store(tmp_path / f"W_enc_{layer}.safetensors", {f"W_enc_{layer}": np.ones((4, 2), np.float32)})
        store(tmp_path / f"W_dec_{layer}.safetensors", {f"W_dec_{layer}": np.ones((4, 2 - layer, 2), np.float32)})
    store(tmp_path / "W_dec_norm.safetensors", {"W_dec_norm": np.ones((2, 4), np.float32)})
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileError, match=r"joint top-k .*not decided by that layer's input alone.*Reading it as ReLU"):
        load_folder(tmp_path)


# mwhanna's sets are in circuit-tracer's layout, with a file of another tool beside


@pytest.mark.parametrize("beside", ["wandb-config.yaml", "wanb-config.yaml"])
def test_qwen3_sets_are_read_as_relu_transcoders(tmp_path: Path, beside: str) -> None:
    random = np.random.default_rng(0)
    layers = []
    for layer in range(3):
        shapes = {"W_enc": (6, 4), "W_dec": (6, 4), "b_enc": (6,), "b_dec": (4,)}
        layers.append({name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()})
        store(tmp_path / f"layer_{layer}.safetensors", layers[-1])
    (tmp_path / "config.yaml").write_text(
        "model_name: Qwen/Qwen3-4B\nmodel_kind: transcoder_set\nfeature_input_hook: mlp.hook_in\n"
        "feature_output_hook: hook_mlp_out\nscan: qwen3-4b\n"
    )
    (tmp_path / beside).write_text("layer: {value: [0]}\nuse_skip: {value: false}\n")
    plt = load_folder(tmp_path)
    x = random.normal(size=(7, 4))
    for layer, weights in enumerate(layers):
        a = np.maximum(x @ weights["W_enc"].T + weights["b_enc"], 0)
        np.testing.assert_allclose(plt.encode(torch.from_numpy(x), layer), a, rtol=1e-6, atol=1e-6)
    assert (plt.read, plt.model_name) == ("mlp.hook_in", "Qwen/Qwen3-4B")


@pytest.mark.parametrize("writer", WRITERS)
def test_what_was_loaded_is_saved_and_loaded_in_our_own_layout(tmp_path: Path, writer: str) -> None:
    written = WRITERS[writer](tmp_path / "set")
    assert_computes(load_transcoder(save_transcoder(load_folder(tmp_path / "set"), tmp_path / "ours")), written)


def test_the_activations_are_those_that_the_formats_name(tmp_path: Path) -> None:
    write_clt_training(tmp_path / "a", Run(activation="groupmax"))
    write_crosslayer_transcoder(tmp_path / "b", nonlinearity="PerLayerTopK")
    write_crosslayer_transcoder(tmp_path / "c", nonlinearity="BatchTopK")
    write_clt_forge(tmp_path / "d")
    kinds = [type(load_folder(tmp_path / name).activation) for name in "abcd"]
    assert kinds == [GroupMax, TopK, BatchTopK, JumpReLU]


def test_groupmax_needs_groups_of_one_size() -> None:
    assert GroupMax(2)(torch.tensor([[1.0, 3.0, -2.0, -1.0]]), 0).tolist() == [[0.0, 3.0, 0.0, 0.0]]
    with pytest.raises(SettingError, match=r"cannot divide 4 features into k=3 equal groups"):
        GroupMax(3)(torch.ones(2, 4), 0)


def change(path: Path, name: str, *, at: float) -> None:
    """Sets the first number of one tensor."""
    arrays = {key: array.copy() for key, array in load_file(path).items()}
    arrays[name].flat[0] = at
    save_file(arrays, path)
