"""The state swap: is a question's state, as transcoder features see it, what the model answers from?

An intervention on the demo model itself, after the Texas → California swap of Lindsey et al. 2025, "On the Biology of a
Large Language Model": what the features of one state write is taken out, what those of another write is put in.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tl_circuits.hooks import Model, installed
from tl_circuits.sites import Sites
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.zoo.world import STATES, Prompt, World, fact

# The F1 from which a feature, active or not, counts as telling a state from the others.
STANDS_FOR = 0.4
NAMES = [state.name for state in STATES]


@dataclass(frozen=True)
class Swap:
    """The share of answers that became the other state's: by state features, and by as many random features."""

    turned: float
    control: float
    features_per_state: float


@torch.no_grad()
def state_swap(
    model: Model,
    transcoder: CrossLayerTranscoder,
    world: World,
    *,
    scale: float = 2.0,
    trials: int = 500,
    seed: int = 0,
) -> Swap:
    """Swaps the state at the last token of held-out questions and reads the answer in the original model.

    Constrained patching: every MLP but the last is held at its clean output plus decoder deltas, which take out `scale`
    times what the features of the question's state write and put in `scale` times what those of the other state write
    at their mean activation; the last MLP, which has to make an answer of state and relation, runs on. Features are
    chosen on trained prompts. The control takes out as many active features, and puts in as many others, drawn at
    random from the same layers. The two states' answers always differ.
    """
    known = last_token(model, transcoder, world.of("two-hop"))[:-1]
    state_of = torch.tensor([NAMES.index(prompt.state) for prompt in world.of("two-hop")])
    stand_for = [state_features(acts, state_of) for acts in known]
    draw = torch.Generator().manual_seed(seed)
    prompts, others = _trials(world.of("two-hop", held_out=True), trials, draw)
    clean = last_token(model, transcoder, prompts)
    swaps, controls = [], []
    for acts, features, now in zip(known, stand_for, clean[:-1], strict=True):
        swap = torch.zeros_like(now)
        control = torch.zeros_like(now)
        for row, (prompt, other) in enumerate(zip(prompts, others, strict=True)):
            out = features[NAMES.index(prompt.state)] & (now[row] > 0)
            into = features[other]
            means = _mean_active(acts[state_of == other])
            swap[row] = into * means - out * now[row]
            drawn_out = _drawn(~features[NAMES.index(prompt.state)] & (now[row] > 0), int(out.sum()), draw)
            drawn_in = _drawn(~into & (acts > 0).any(0), int(into.sum()), draw)
            control[row] = drawn_in * _mean_active(acts) - drawn_out * now[row]
        swaps.append(scale * swap)
        controls.append(scale * control)
    wanted = [fact(STATES[other], prompt.relation) for prompt, other in zip(prompts, others, strict=True)]
    turned = _answers_become(model, transcoder, prompts, wanted, swaps)
    by_chance = _answers_become(model, transcoder, prompts, wanted, controls)
    return Swap(turned, by_chance, sum(int(layer.sum()) for layer in stand_for) / len(STATES))


@torch.no_grad()
def last_token(
    model: Model, transcoder: CrossLayerTranscoder, prompts: Sequence[Prompt]
) -> list[Float[Tensor, "prompt feature"]]:
    """The features of each layer at the last token of these questions, which are all of one length."""
    tokens = _questions(model, prompts)
    activations: list[Tensor] = []

    def encode_last(layer: int) -> Callable[[Tensor], None]:
        return lambda x: activations.append(transcoder.encode(x[:, -1], layer))

    sites = Sites.of(model, transcoder.read, transcoder.write).sites
    with installed(model, {site.read: encode_last(site.layer) for site in sites}):
        model(tokens)
    return activations


def state_features(activations: Float[Tensor, "prompt feature"], state_of: Tensor) -> Bool[Tensor, "state feature"]:
    """Which features are active on a state's prompts, and on few others: F1 of at least `STANDS_FOR`."""
    active = (activations > 0).float()
    belongs = torch.nn.functional.one_hot(state_of, len(STATES)).float()
    both = belongs.T @ active
    f1 = 2 * both / (active.sum(0) + belongs.sum(0)[:, None]).clamp_min(1)
    return f1 >= STANDS_FOR


def _questions(model: Model, prompts: Sequence[Prompt]) -> Tensor:
    return torch.tensor([model.tokenizer(prompt.text).input_ids for prompt in prompts])


def _trials(prompts: Sequence[Prompt], trials: int, draw: torch.Generator) -> tuple[list[Prompt], list[int]]:
    chosen, others = [], []
    while len(chosen) < trials:
        prompt = prompts[int(torch.randint(len(prompts), (), generator=draw))]
        other = int(torch.randint(len(STATES), (), generator=draw))
        if fact(STATES[other], prompt.relation) != prompt.answer.strip():
            chosen.append(prompt)
            others.append(other)
    return chosen, others


def _mean_active(activations: Float[Tensor, "prompt feature"]) -> Float[Tensor, " feature"]:
    return activations.sum(0) / (activations > 0).sum(0).clamp_min(1)


def _drawn(among: Bool[Tensor, " feature"], count: int, draw: torch.Generator) -> Bool[Tensor, " feature"]:
    candidates = among.nonzero().flatten()
    mask = torch.zeros_like(among)
    mask[candidates[torch.randperm(len(candidates), generator=draw)[:count]]] = True
    return mask


def _answers_become(
    model: Model,
    transcoder: CrossLayerTranscoder,
    prompts: Sequence[Prompt],
    wanted: Sequence[str],
    changes: Sequence[Tensor],
) -> float:
    questions = _questions(model, prompts)
    answers = torch.tensor([model.tokenizer.convert_tokens_to_ids(f" {answer}") for answer in wanted])
    patched = Sites.of(model, transcoder.read, transcoder.write).sites[: len(changes)]
    clean: dict[int, Tensor] = {}

    def keep(layer: int) -> Callable[[Tensor], None]:
        return lambda wrote: clean.update({layer: wrote.clone()})

    def patch(layer: int) -> Callable[[Tensor], Tensor]:
        delta = transcoder.decode(changes, layer) - transcoder.b_dec[layer]
        return lambda _: torch.cat([clean[layer][:, :-1], clean[layer][:, -1:] + delta[:, None]], dim=1)

    with installed(model, {site.write: keep(site.layer) for site in patched}):
        model(questions)
    with installed(model, {site.write: patch(site.layer) for site in patched}):
        logits = model(questions)
    return (logits[:, -1].argmax(-1) == answers).float().mean().item()
