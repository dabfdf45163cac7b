"""What must simply work: odd prompts, silent features, borrowed models with their hooks and modes."""

from typing import Any

import pytest
import torch
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tl_circuits.nodes import Kind
from tl_circuits.transcoder import CrossLayerTranscoder

TOKENS = torch.tensor([1, 5, 9, 3, 7, 22])

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_family = pytest.mark.parametrize("family", models.FAMILIES)


def silent(layers: tuple[int, ...] = (0, 1, 2)) -> CrossLayerTranscoder:
    """A transcoder without active features in these layers."""
    plain = models.transcoder()
    b_enc = [bias.data - (1e4 if layer in layers else 0) for layer, bias in enumerate(plain.b_enc)]
    W_enc, W_dec = [part.data for part in plain.W_enc], [part.data for part in plain.W_dec]
    return CrossLayerTranscoder(W_enc, b_enc, W_dec, plain.b_dec.data, activation=plain.activation, read=plain.read)


@pytest.mark.slow
@both
@every_family
def test_a_prompt_of_one_token(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    graph = tlc.trace(model, models.transcoder(), [5])
    assert graph.tokens == ("5",)
    masked = tlc.trace(model, models.transcoder(), [5], masked_positions=[0])
    assert masked.nodes.count(Kind.FEATURE) == 0
    assert masked.conservation_error < 1e-5


@pytest.mark.slow
@both
def test_a_prompt_on_which_no_feature_is_active(model_class: str) -> None:
    graph = tlc.trace(models.model_of("gpt2", model_class), silent(), TOKENS)
    assert graph.nodes.count(Kind.FEATURE) == 0
    assert graph.conservation_error < 1e-12
    assert graph.scores().replacement > 0
    assert len(graph.prune().nodes) > 0


@pytest.mark.slow
@both
def test_a_last_position_on_which_no_feature_is_active(model_class: str) -> None:
    graph = tlc.trace(models.model_of("gpt2", model_class), models.transcoder(), TOKENS, masked_positions=[-1])
    assert int(graph.nodes.pos[graph.nodes.span(Kind.FEATURE)].max()) < len(TOKENS) - 1
    assert graph.conservation_error < 1e-12


@pytest.mark.slow
@both
def test_a_layer_without_active_features(model_class: str) -> None:
    graph = tlc.trace(models.model_of("gpt2", model_class), silent((1,)), TOKENS)
    assert set(graph.nodes.layer[graph.nodes.span(Kind.FEATURE)].tolist()) == {0, 2}
    assert graph.conservation_error < 1e-12


@pytest.mark.slow
@both
def test_negative_target_weights_give_scores_between_0_and_1_that_say_so(model_class: str) -> None:
    targets = tlc.Targets.tokens([3, 7], [1.0, -1.0])
    graph = tlc.trace(models.model_of("gpt2", model_class), models.transcoder(), TOKENS, targets)
    scores = graph.scores()
    assert 0 <= scores.replacement <= 1
    assert 0 <= scores.completeness <= 1
    assert "negative" in repr(scores)


@pytest.mark.slow
@both
@every_family
@pytest.mark.parametrize("pos", [0, 3, 9, -1])
def test_logits_at_any_position_of_a_prompt_long_enough_for_prefixes(family: str, model_class: str, pos: int) -> None:
    model, tokens = models.model_of(family, model_class), torch.arange(12)
    local = tlc.localize(model, models.transcoder(), tokens)
    logits = model(tokens[None])[0, pos].detach()
    graph = tlc.attribute(local, tlc.Targets.difference(3, 7, pos=pos))
    assert graph.conservation_error < 1e-5
    if family != "gemma-2":  # Its logits are capped after what a target reads.
        assert float(graph.activations[-1]) == pytest.approx(float(logits[3] - logits[7]), abs=1e-5)


@pytest.mark.slow
def test_several_weighted_directions_are_targets_of_one_graph() -> None:
    local = tlc.localize(models.hooked("gpt2"), models.transcoder(), TOKENS)
    vectors = torch.eye(models.D_MODEL, dtype=torch.float64)[:3]
    graph = tlc.attribute(local, tlc.Targets.directions(vectors, [0.5, 1.0, -2.0], labels=["a", "b", "c"]))
    assert graph.target_labels == ("a", "b", "c")
    assert graph.target_weights.tolist() == [0.5, 1.0, -2.0]
    alone = tlc.attribute(local, tlc.Targets.direction(vectors[1]))
    torch.testing.assert_close(
        graph.edges.dense(len(graph.nodes))[-2, :-3], alone.edges.dense(len(alone.nodes))[-1, :-1]
    )


@pytest.mark.slow
@both
def test_one_target_alone_is_a_list_of_one(model_class: str) -> None:
    local = tlc.localize(models.model_of("gpt2", model_class), models.transcoder(), TOKENS)
    feature = local.active()[-1]
    for alone, listed in ((5, [5]), (feature, [feature]), (str(feature), [feature]), (torch.tensor([5, 7]), [5, 7])):
        assert tlc.attribute(local, alone).target_labels == tlc.attribute(local, listed).target_labels


@pytest.mark.slow
def test_batch_topk_uses_its_threshold_and_sees_each_position_alone() -> None:
    model, threshold = models.hooked("gpt2"), torch.full((models.N_LAYERS,), 0.4)
    parts = models.transcoder()

    def local(activation: Any, tokens: Tensor) -> Any:
        transcoder = CrossLayerTranscoder(
            list(parts.W_enc),
            list(parts.b_enc),
            list(parts.W_dec),
            parts.b_dec.data,
            activation=activation,
            read=parts.read,
        )
        return tlc.localize(model, transcoder, tokens)

    whole = local(tlc.BatchTopK(2, threshold), torch.arange(10))
    assert (
        whole.active()
        == local(tlc.JumpReLU(threshold[:, None].expand(-1, models.N_FEATURES)), torch.arange(10)).active()
    )
    begun = local(tlc.BatchTopK(2, threshold), torch.arange(5)).active()
    assert begun == [feature for feature in whole.active() if feature.pos < 5]


@pytest.mark.slow
def test_saelens_models_are_models() -> None:
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    model = models.bridge("gpt2")
    expected = tlc.trace(model, models.transcoder(read="hook_resid_mid"), TOKENS)
    was = model.__class__
    model.__class__ = SAETransformerBridge
    model._acts_to_saes, model._transcoder_output_hooks = {}, {}
    try:
        graph = tlc.trace(model, models.transcoder(read="hook_resid_mid"), TOKENS)
    finally:
        model.__class__ = was
    torch.testing.assert_close(graph.edges.weight, expected.edges.weight)


@pytest.mark.slow
@both
@every_family
def test_a_model_in_training_mode(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    everything = [*model.modules(), *getattr(model, "original_model", model).modules()]
    rates = [(module, module.p) for module in everything if isinstance(module, torch.nn.Dropout)]
    for module, _ in rates:
        module.p = 0.0
    still = tlc.trace(model, models.transcoder(), TOKENS)
    try:
        model.train()
        graph = tlc.trace(model, models.transcoder(), TOKENS)
        assert model.training
    finally:
        model.eval()
        for module, rate in rates:
            module.p = rate
    torch.testing.assert_close(graph.edges.weight, still.edges.weight)


@pytest.mark.slow
@both
@every_family
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_calls_inside_grad_modes(family: str, model_class: str, context: Any) -> None:
    model = models.model_of(family, model_class)
    outside = tlc.trace(model, models.transcoder(skip=True), TOKENS)
    with context():
        inside = tlc.trace(model, models.transcoder(skip=True), TOKENS.clone(), masked_positions=())
        inside.prune().scores()
    torch.testing.assert_close(inside.edges.weight, outside.edges.weight)


@pytest.mark.slow
@both
@every_family
def test_the_model_is_bit_identical_afterwards(family: str, model_class: str) -> None:
    model = models.model_of(family, model_class)
    logits = model(TOKENS[None])  # Its first pass puts hooks of a bridge's own in place.
    before = state(model)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    tlc.trace(model, models.transcoder(skip=True), TOKENS, coverage=0.7)
    with tlc.replace_mlps(model, models.transcoder()):
        model(TOKENS[None])
    with pytest.raises(tlc.TLCircuitsError):
        tlc.trace(model, models.transcoder(), TOKENS, [999])
    assert torch.equal(torch.rand(3), expected), "the global seed moved"
    assert state(model) == before
    assert torch.equal(model(TOKENS[None]), logits)


@both
def test_hooks_are_taken_off_when_a_pass_fails(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    model(TOKENS[None])
    before = state(model)

    def fail(_value: Tensor, **_: Any) -> None:
        raise RuntimeError("user's own")

    with pytest.raises(RuntimeError, match="user's own"), model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", fail)]):
        tlc.trace(model, models.transcoder(), TOKENS)
    assert state(model) == before


@pytest.mark.slow
@both
@every_family
def test_the_users_hooks_fire_survive_and_count(family: str, model_class: str) -> None:
    model, fired = models.model_of(family, model_class), []
    steer = torch.linspace(-1, 1, models.D_MODEL, dtype=torch.float64)

    def hook(value: Tensor, **_: Any) -> Tensor:
        fired.append(value.shape)
        value = value.clone()
        value[:, -1] += steer
        return value

    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", hook)]):
        steered = model(TOKENS[None])
        del fired[:]
        local = tlc.localize(model, models.transcoder(), TOKENS)
        graph = tlc.attribute(local)
        assert fired
        # A hook that steers the last position must never see a prefix of the prompt.
        assert {shape[1] for shape in fired} == {len(TOKENS)}
        torch.testing.assert_close(local.logits, steered[0].detach(), atol=1e-5, rtol=1e-5)
        assert torch.equal(model(TOKENS[None]), steered)
    assert graph.conservation_error < 1e-5
    assert graph.probe_error < 1e-5
    with model.hooks(fwd_hooks=[("blocks.1.hook_resid_pre", hook)]):
        del fired[:]
        model(TOKENS[None])
    assert len(fired) == 1


@pytest.mark.slow
@both
def test_permanent_hooks_of_the_user_stay(model_class: str) -> None:
    model, fired = models.model_of("gpt2", model_class), []
    point = model.hook_dict["blocks.0.hook_mlp_out"]
    point.add_perma_hook(lambda _value, **_: fired.append(1))
    try:
        tlc.trace(model, models.transcoder(), TOKENS)
        assert fired
        del fired[:]
        model(TOKENS[None])
        assert fired == [1]
    finally:
        point.remove_hooks(including_permanent=True)


@pytest.mark.slow
@both
@pytest.mark.parametrize(
    "prompt", [TOKENS, TOKENS[None], TOKENS.tolist(), TOKENS.to(torch.int32)], ids=["1-D", "2-D", "list", "int32"]
)
def test_a_tokenizer_less_model_takes_tokens(model_class: str, prompt: Any) -> None:
    graph = tlc.trace(models.model_of("gpt2", model_class), models.transcoder(), prompt)
    assert graph.tokens == ("1", "5", "9", "3", "7", "22")
    assert graph.provenance.masked_positions == ()


@pytest.mark.slow
@both
def test_masked_positions_move_into_sources_of_their_own(model_class: str) -> None:
    model = models.model_of("gpt2", model_class)
    graph = tlc.trace(model, models.transcoder(), TOKENS, masked_positions=[0, -1])
    assert graph.provenance.masked_positions == (0, 5)
    assert sorted(set(graph.nodes.pos[graph.nodes.span(Kind.MASKED)].tolist())) == [0, 5]
    assert graph.conservation_error < 1e-12
    assert not bool((graph.nodes.pos[graph.nodes.span(Kind.FEATURE)] == 0).any())


@pytest.mark.slow
def test_max_features_stops_and_says_what_it_covers() -> None:
    local = tlc.localize(models.hooked("gpt2"), models.transcoder(), TOKENS)
    graph = tlc.attribute(local, max_features=10)
    assert int(graph.expanded.sum()) == 10 + graph.nodes.count(Kind.TARGET)
    assert 0 < graph.coverage < 1
    assert graph.provenance.settings["max_features"] == 10
    assert tlc.attribute(local, max_features=10**6).coverage == 1.0


@pytest.mark.slow
def test_split_query_key_value_inputs_of_a_hooked_transformer_work() -> None:
    model = models.hooked("llama")
    plain = tlc.trace(model, models.transcoder(), TOKENS)
    model.set_use_split_qkv_input(True)
    try:
        split = tlc.trace(model, models.transcoder(), TOKENS)
    finally:
        model.set_use_split_qkv_input(False)
    torch.testing.assert_close(split.edges.weight, plain.edges.weight)


def state(model: Any) -> dict[str, Any]:
    """Everything about a model that tracing might have changed."""
    return {
        "weights": {name: value.sum().item() for name, value in model.state_dict().items()},
        "grads": [
            (parameter.requires_grad, parameter.grad is None, parameter.dtype) for parameter in model.parameters()
        ],
        "hooks": {
            name: len(module._forward_hooks) + len(module._forward_pre_hooks) for name, module in model.named_modules()
        },
        "lens": {name: len(point.fwd_hooks) + len(point.bwd_hooks) for name, point in model.hook_dict.items()},
        "training": [module.training for module in model.modules()],
        "config": str(model.cfg),
    }
