"""Models by the names that users type, from a hub: both classes trace alike, and what starts a prompt is masked."""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

import tl_circuits as tlc
from tests import models, named
from tests.hub import Hub, served
from tl_circuits.errors import FileError
from tl_circuits.graph import AttributionGraph
from tl_circuits.nodes import Kind
from tl_circuits.replacement.prompt import tokenize
from tl_circuits.zoo.named import load

TEXT = " Austin is in Texas. Austin is"
ASKED = [{"role": "user", "content": " Austin is"}]

both = pytest.mark.parametrize("model_class", models.CLASSES)
every_family = pytest.mark.parametrize("family", named.FAMILIES)


@pytest.fixture(scope="module")
def on_hub(running_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    with served(running_hub, tmp_path_factory.mktemp("named")) as hub:
        named.serve_all(hub)
        yield hub


@pytest.fixture(scope="module")
def model_of(on_hub: Hub) -> Callable[..., Any]:
    """A family's model, or one of Gemma 3 that was not tuned on chats, by its name on the hub, in one class."""
    assert on_hub.moved

    @cache
    def model(family: str, model_class: str, dtype: torch.dtype = torch.float32) -> Any:
        known = {**named.FAMILIES, "gemma-3-pt": named.GEMMA_3_PT}[family]
        return known.bridge(dtype) if model_class == "bridge" else known.as_hooked(dtype)

    return model


def gap(one: AttributionGraph, other: AttributionGraph) -> float:
    """The largest difference between edges of two graphs of the same nodes, each relative to its row's Σ|edges|."""
    assert one.nodes.count(Kind.FEATURE) > 20
    for name in ("kind", "layer", "pos", "index"):
        assert torch.equal(getattr(one.nodes, name), getattr(other.nodes, name)), name
    a, b = (graph.adjacency().double() for graph in (one, other))
    return float(((a - b).abs().amax(1) / a.abs().sum(1).clamp_min(1e-30))[one.expanded].max())


@pytest.mark.slow
@every_family
@pytest.mark.parametrize("read", ["ln2.hook_normalized", "mlp.hook_in"])
def test_both_classes_trace_the_same_graph_by_name(model_of: Callable[..., Any], family: str, read: str) -> None:
    traced = partial(tlc.trace, transcoder=models.transcoder(read=read, skip=True), prompt=TEXT)
    of_bridge, of_hooked = (traced(model_of(family, model_class)) for model_class in ("bridge", "hooked"))
    assert gap(of_bridge, of_hooked) < 1e-5
    assert of_bridge.provenance.prompt == of_hooked.provenance.prompt
    assert of_bridge.provenance.masked_why == of_hooked.provenance.masked_why


@pytest.mark.slow
@every_family
def test_in_float64_they_differ_by_what_a_bridge_keeps_in_float32(model_of: Callable[..., Any], family: str) -> None:
    # A bridge runs transformers' modules, whose rotations and RMS norms are float32 whatever the model's dtype; GPT-2
    # has neither, and Pythia no RMS norms.
    traced = partial(tlc.trace, transcoder=models.transcoder(dtype=torch.float64), prompt=TEXT)
    pair = [traced(model_of(family, model_class, torch.float64)) for model_class in ("bridge", "hooked")]
    assert gap(*pair) < {"gpt2": 1e-14, "pythia": 1e-8}.get(family, 1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("on_hub")
@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2", "EleutherAI/pythia-70m"])
def test_a_model_is_loaded_by_its_name_with_a_transcoder_of_a_folder(tmp_path: Path, name: str) -> None:
    tlc.save_transcoder(models.transcoder(), tmp_path / "set")
    model, transcoder = load(name, tmp_path / "set")
    graph = tlc.trace(model, transcoder, TEXT)
    assert graph.provenance.model == name
    assert graph.conservation_error < 1e-5


@contextmanager
def unknown(_: Hub) -> Iterator[str]:
    yield "nobody/nothing"


@contextmanager
def gated(hub: Hub) -> Iterator[str]:
    hub.gated.add("google/gemma-2-2b")
    yield "google/gemma-2-2b"


@contextmanager
def offline(hub: Hub) -> Iterator[str]:
    with hub.down():
        yield "google/gemma-2-2b"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bridge", "hooked"])
@pytest.mark.parametrize(
    ("trouble", "says"),
    [
        (unknown, r"'nobody/nothing' could not be loaded.*(not found|not a valid).*Check its name"),
        (gated, r"'google/gemma-2-2b' could not be loaded.*gated repo.*log in first with `hf auth login`"),
        (offline, r"'google/gemma-2-2b' could not be loaded.*couldn't connect.*your connection"),
    ],
)
def test_a_model_that_cannot_be_fetched_is_one_clear_error(
    hub: Hub, tmp_path: Path, kind: Any, trouble: Callable[[Hub], AbstractContextManager[str]], says: str
) -> None:
    tlc.save_transcoder(models.transcoder(), tmp_path / "set")
    named.FAMILIES["gemma-2"].serve(hub)
    with trouble(hub) as name, pytest.raises(FileError, match=says):
        load(name, tmp_path / "set", kind=kind)


START = {
    "gpt2": ((0,), r"token \(id 0\), on which transcoders are not trained"),
    "pythia": ((), r"nothing masked: the prompt does not start with the beginning-of-sequence token \(id 0\)"),
    "llama": ((0,), r"token \(id 0\), on which"),
    "gemma-2": ((0,), r"token \(id 2\), on which"),
    "gemma-3": ((0,), r"token \(id 2\), on which"),
    "qwen3": ((), "nothing masked: the model has no beginning-of-sequence token"),
}


@pytest.mark.slow
@both
@every_family
def test_the_graph_says_what_of_the_prompt_is_masked_and_why(
    model_of: Callable[..., Any], family: str, model_class: str
) -> None:
    graph = tlc.trace(model_of(family, model_class), models.transcoder(), TEXT)
    masked, why = START[family]
    assert graph.provenance.masked_positions == masked
    assert re.search(why, graph.provenance.masked_why)
    assert not set(graph.nodes.pos[graph.nodes.span(Kind.FEATURE)].tolist()) & set(masked)


@pytest.mark.slow
@both
def test_pythias_bos_of_id_0_is_masked_where_the_prompt_has_it(model_of: Callable[..., Any], model_class: str) -> None:
    prompt = tokenize(model_of("pythia", model_class), "<|endoftext|>" + TEXT)
    assert prompt.tokens[0] == 0
    assert prompt.masked == (0,)


@pytest.mark.slow
@both
def test_qwens_end_of_turn_is_no_bos_though_transformer_lens_calls_it_one(
    model_of: Callable[..., Any], model_class: str
) -> None:
    model = model_of("qwen3", model_class)
    assert model.tokenizer.bos_token == "<|im_end|>"
    prompt = tokenize(model, "<|im_end|><|im_start|>user\n Austin")
    assert prompt.strings[:2] == ("<|im_end|>", "<|im_start|>")
    assert prompt.masked == ()


@pytest.mark.slow
@both
def test_a_chat_with_gemma_3_has_its_first_four_tokens_masked(model_of: Callable[..., Any], model_class: str) -> None:
    model = model_of("gemma-3", model_class)
    graph = tlc.trace(model, models.transcoder(), ASKED)
    start = "<bos><start_of_turn>user\n"
    assert graph.provenance.prompt == f"{start}Austin is<end_of_turn>\n<start_of_turn>model\n"
    assert graph.provenance.masked_positions == (0, 1, 2, 3)
    assert "id 2) and '<start_of_turn>user\\n', on which" in graph.provenance.masked_why
    assert set(graph.nodes.pos[graph.nodes.span(Kind.MASKED)].tolist()) == {0, 1, 2, 3}
    assert min(graph.nodes.pos[graph.nodes.span(Kind.FEATURE)].tolist()) == 4
    assert graph.conservation_error < 1e-5


@both
@pytest.mark.parametrize(
    ("family", "text", "masked"),
    [
        ("gemma-3", "<start_of_turn>user\n Austin", (0, 1, 2, 3)),
        ("gemma-3", "<start_of_turn>model\n Austin", (0,)),
        ("gemma-3", " Austin<start_of_turn>user\n", (0,)),
        ("gemma-3", "<start_of_turn>user Austin", (0,)),
        ("gemma-3", "<bos><start_of_turn>user\n Austin", (0, 1, 2, 3, 4)),
        ("gemma-3", "<start_of_turn>user\n", (0, 1, 2, 3)),
        ("gemma-3-pt", "<start_of_turn>user\n Austin", (0,)),
        ("gemma-2", "<start_of_turn>user\n Austin", (0,)),
    ],
)
def test_four_are_masked_on_instruction_tuned_gemma_3_alone_and_where_a_user_begins(
    model_of: Callable[..., Any], model_class: str, family: str, text: str, masked: tuple[int, ...]
) -> None:
    assert tokenize(model_of(family, model_class), text).masked == masked


@pytest.mark.slow
def test_ids_that_start_as_a_chat_does_are_masked_alike_and_the_user_has_the_last_word(
    model_of: Callable[..., Any],
) -> None:
    model = model_of("gemma-3", "bridge")
    by_chat = tokenize(model, ASKED)
    assert tokenize(model, by_chat.tokens).masked == (0, 1, 2, 3)
    assert tokenize(model, ASKED, (0,)).masked == (0,)
    assert tokenize(model, ASKED, ()).masked == ()
    assert tokenize(model, by_chat.tokens[1:]).masked == ()


@pytest.mark.slow
@both
def test_messages_that_the_chat_template_refuses_are_refused_with_its_reason(
    model_of: Callable[..., Any], model_class: str
) -> None:
    twice = [*ASKED, *ASKED]
    with pytest.raises(tlc.PromptError, match=r"Roles must alternate.*role and a content"):
        tokenize(model_of("gemma-3", model_class), twice)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "is_tuned"),
    [
        ("google/gemma-3-27b-it", True),
        ("gemma-3-270m-it", True),
        ("/models/gemma-3-4b-it/", True),
        ("google/gemma-3-12b-it-qat-q4_0-unquantized", True),
        ("google/gemma-3-1b-pt", False),
        ("google/gemma-2-2b-it", False),
        ("my-gemma-3-1b-italian", False),
    ],
)
def test_which_models_are_gemma_3_that_was_tuned_on_chats(
    model_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, name: str, is_tuned: bool
) -> None:
    model = model_of("gemma-3", "bridge")
    monkeypatch.setattr(model.cfg, "model_name", name)
    assert len(tokenize(model, ASKED).masked) == (4 if is_tuned else 1)


def attachable(kind: str) -> Any:
    """An SAE of the residual stream, or a transcoder of the first MLP, as SAELens runs them."""
    from sae_lens.saes.sae import SAEMetadata
    from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
    from sae_lens.saes.transcoder import Transcoder, TranscoderConfig

    hook = "blocks.1.hook_resid_pre" if kind == "sae" else "blocks.0.ln2.hook_normalized"
    sizes = {"d_in": models.D_MODEL, "d_sae": models.N_FEATURES, "apply_b_dec_to_input": False}
    if kind == "sae":
        return StandardSAE(StandardSAEConfig(**sizes, metadata=SAEMetadata(hook_name=hook)))
    metadata = SAEMetadata(hook_name=hook, hook_name_out="blocks.0.hook_mlp_out")
    return Transcoder(TranscoderConfig(**sizes, d_out=models.D_MODEL, metadata=metadata))


def of_saelens(family: str, model_class: str) -> Any:
    from sae_lens import HookedSAETransformer
    from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge

    known = named.FAMILIES[family]
    if model_class == "hooked":
        return known.as_hooked(kind=HookedSAETransformer)
    return SAETransformerBridge.boot_transformers(known.name or known.repository).eval()


@pytest.mark.slow
@both
@every_family
def test_models_of_saelens_trace_as_those_of_transformer_lens(
    model_of: Callable[..., Any], family: str, model_class: str
) -> None:
    transcoder = models.transcoder(read="mlp.hook_in")
    theirs = tlc.trace(of_saelens(family, model_class), transcoder, TEXT)
    assert gap(tlc.trace(model_of(family, model_class), transcoder, TEXT), theirs) < 1e-6


@pytest.mark.slow
@both
@pytest.mark.parametrize("kind", ["sae", "transcoder"])
@pytest.mark.parametrize("family", ["gpt2", "gemma-2"])
@pytest.mark.usefixtures("on_hub")
def test_attached_saes_are_refused_and_leave_no_trace(family: str, model_class: str, kind: str) -> None:
    model, transcoder = of_saelens(family, model_class), models.transcoder()
    before = tlc.trace(model, transcoder, TEXT)
    sae = attachable(kind)
    model.add_sae(sae)
    for refused in (partial(tlc.trace, model, transcoder, TEXT), partial(open_replacement, model, transcoder)):
        with pytest.raises(tlc.FitError, match=rf"SAEs are attached.*{sae.cfg.metadata.hook_name}.*reset_saes\(\)"):
            refused()
    assert model.acts_to_saes
    model.reset_saes()
    assert gap(before, tlc.trace(model, transcoder, TEXT)) == 0
    with model.saes([sae]):
        model(TEXT)
    assert gap(before, tlc.trace(model, transcoder, TEXT)) == 0


def open_replacement(model: Any, transcoder: Any) -> None:
    with tlc.replace_mlps(model, transcoder):
        model(TEXT)
