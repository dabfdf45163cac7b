"""Where six families of models are read, written and frozen."""

import pytest
import torch

from tests import models
from tl_circuits.hooks import Tap, installed
from tl_circuits.sites import Sites

TOKENS = torch.tensor([[1, 5, 9, 3, 7, 22]])

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_family = pytest.mark.parametrize("family", models.FAMILIES)

# Norms whose denominators are frozen: before attention and MLP, and in the gemmas after them too.
NORMS_IN_A_BLOCK = {"gpt2": 2, "pythia": 2, "llama": 2, "gemma-2": 4, "gemma-3": 4, "qwen3": 2}


@both
@every_family
def test_each_block_is_read_and_written_where_the_transcoder_says(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    for read in models.reads(family):
        for write in ("hook_mlp_out", "mlp.hook_out"):
            sites = Sites.of(model, read, write)
            assert [site.layer for site in sites.sites] == list(range(models.N_LAYERS)) == list(range(sites.n_layers))
            for site in sites.sites:
                block = f"blocks.{site.layer}"
                assert site.block_in == Tap(f"{block}.hook_resid_pre")
                assert site.block_out == Tap(f"{block}.hook_resid_post")
                assert site.read == expected(model_class, block, read)
                assert site.write == expected(model_class, block, write)


def expected(model_class: str, block: str, point: str) -> Tap:
    """A plain HookedTransformer has no hook point on the MLP itself, so the module's input or output is taken."""
    if model_class == "hooked" and point.startswith("mlp."):
        return Tap(f"{block}.mlp", "input" if point == "mlp.hook_in" else "output")
    return Tap(f"{block}.{point}")


@both
@every_family
def test_every_pattern_and_every_norm_is_frozen_once(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    frozen = [tap.name for tap in Sites.of(model, "ln2.hook_normalized", "hook_mlp_out").frozen]
    points = [id(model.hook_dict[name]) for name in frozen]
    assert len(set(points)) == len(points), "a point under two names would be frozen twice"
    patterns = [name for name in frozen if name.endswith("hook_pattern")]
    assert sorted(patterns) == [f"blocks.{layer}.attn.hook_pattern" for layer in range(models.N_LAYERS)]
    scales = [name for name in frozen if name.endswith("hook_scale")]
    assert len(scales) == NORMS_IN_A_BLOCK[family] * models.N_LAYERS + 1
    assert "ln_final.hook_scale" in scales
    assert len(patterns) + len(scales) == len(frozen)


@both
@every_family
def test_positions_are_a_source_only_where_they_are_learned(family: str, model_class: str) -> None:
    sites = Sites.of(models.model_of(family, model_class), "ln2.hook_normalized", "hook_mlp_out")
    assert (sites.pos_embed is None) == (family != "gpt2")


@both
@every_family
@pytest.mark.parametrize("point", ["mlp.hook_in", "mlp.hook_out"])
def test_a_tap_sees_and_replaces_what_passes(family: str, model_class: str, point: str) -> None:
    model = models.model_of(family, model_class)
    tap = expected(model_class, "blocks.1", point)
    plain, seen = model(TOKENS).detach(), []
    with installed(model, {tap: seen.append}):
        torch.testing.assert_close(model(TOKENS), plain)
    assert seen[0].shape == (*TOKENS.shape, models.D_MODEL)
    with installed(model, {tap: lambda value: 2 * value}):
        assert not torch.allclose(model(TOKENS), plain)
    assert torch.equal(model(TOKENS), plain)


@both
@every_family
def test_the_mlp_turns_what_is_read_before_it_into_what_is_read_after_it(family: str, model_class: str) -> None:
    model, read, written = models.model_of(family, model_class), [], []
    taps = [expected(model_class, "blocks.1", point) for point in ("mlp.hook_in", "mlp.hook_out")]
    with installed(model, {taps[0]: read.append, taps[1]: written.append}):
        model(TOKENS)
    torch.testing.assert_close(model.blocks[1].mlp(read[0]), written[0])
