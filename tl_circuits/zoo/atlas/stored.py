"""The atlas as it ships: model, transcoders and SAEs from the package's own files, and its prompts as tasks."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from tl_circuits.comparison import Task
from tl_circuits.errors import SettingError
from tl_circuits.graph.asked import number
from tl_circuits.hooks import Model
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.transcoder.files import load_folder
from tl_circuits.zoo.atlas.behaviour import FAR, Question
from tl_circuits.zoo.atlas.behaviours import behaviours
from tl_circuits.zoo.demo import ASSETS, shipped_model

ATLAS = ASSETS / "atlas"
NAME = "tl-circuits-atlas"

SAE_SITES = ("hook_mlp_out", "hook_resid_post")


def atlas(
    kind: str = "bridge", transcoder: str = "clt", *, assets: Path = ATLAS
) -> tuple[TransformerBridge | HookedTransformer, CrossLayerTranscoder]:
    """A trained model of several behaviours, and its cross-layer ("clt") or per-layer ("plt") transcoder.

    The model, as a `TransformerBridge` ("bridge") or a `HookedTransformer` ("hooked") of the same weights, answers

    - two-hop questions: "the capital of the state containing Dallas is" → " Austin";
    - what an athlete is known for: "the sport of Michael Jordan is" → " basketball";
    - opposites in two languages: "the opposite of small is" → " big", "le contraire de petit est" → " grand";
    - rhymes at ends of lines: "she said moon,\\nand ate the" → " prune";
    - sums, "36+59=" → "95", and later years, "the war lasted from 1732 to 17" → "33" or more;
    - induction, "names: Kate Ivy Nora Mia Ivy" → " Nora", on seven names;
    - acronyms: "the National Digital Analytics Group (N" → "DAG)".

    Weights are stored in 16 bits and come in float32. `tl_circuits.zoo.atlas` has the prompts, each with a
    counterfactual (`behaviours`), these as tasks for `tl_circuits.comparison` (`task`), and SAEs (`sae_folders`). All
    are files of the package: no network is asked, and the random state is left as it was. Other words read as `<unk>`.
    `figures.json` beside the weights says how good all of them are, and `python -m tl_circuits.zoo.build --name atlas`
    makes them anew.
    """
    if transcoder not in ("clt", "plt"):
        raise SettingError(f"transcoder={transcoder!r} does not ship with the atlas: give 'clt' or 'plt'.")
    model = shipped_model(kind, assets / "model", NAME)
    return model, load_folder(assets / transcoder).to(torch.float32)


def sae_folders(site: str = "hook_mlp_out", *, assets: Path = ATLAS) -> tuple[Path, ...]:
    """The folders of the SAEs of this hook point of each block, in order, for `sae_lens.SAE.load_from_disk`.

    They are SAELens's own JumpReLU SAEs. Raises `SettingError` for a point that has none.
    """
    if site not in SAE_SITES:
        raise SettingError(f"No SAEs of {site!r:.80} ship with the atlas: give one of {', '.join(SAE_SITES)}.")
    return tuple(sorted((assets / "saes").glob(f"blocks.*.{site}")))


def task(model: Model, name: str, *, held_out: bool = True, count: int | None = None) -> Task:
    """The prompts of a behaviour, or `count` of them from first to last, with their counterfactuals, as token ids.

    Answers are their first tokens, and the measure is the difference of their logits. Where several answers are right
    the measure is the probability of these, less that of those that are right for the counterfactual alone (a
    `contrast`), and the prompts are those of which two thirds of the counterfactual's answers are wrong. `model` gives
    the tokenizer. Raises `SettingError` for a name that is no behaviour.
    """
    known = behaviours()
    if name not in known:
        raise SettingError(f"{name!r:.80} is no behaviour of the atlas: give one of {', '.join(known)}.")
    all_of_it = known[name].held_out if held_out else known[name].trained
    questions = [question for question in all_of_it if question.apart >= FAR]
    wanted = len(questions) if count is None else min(number("task", "count", count), len(questions))
    return _task(model, name, [questions[place * len(questions) // wanted] for place in range(wanted)])


def _task(model: Model, name: str, questions: Sequence[Question]) -> Task:
    def tokens(texts: Sequence[str]) -> Tensor:
        return torch.tensor([model.tokenizer(text).input_ids for text in texts])

    def first(pairs: Sequence[tuple[str, str]]) -> Tensor:
        # In its place behind the prompt: cut by itself, a text may begin otherwise.
        return torch.tensor([model.tokenizer(a + b).input_ids[len(model.tokenizer(a).input_ids)] for a, b in pairs])

    return Task(
        name,
        clean=tokens([question.text for question in questions]),
        corrupted=tokens([question.corrupted for question in questions]),
        answer=first([(question.text, question.answer) for question in questions]),
        corrupted_answer=first([(question.corrupted, question.corrupted_answer) for question in questions]),
        contrast=_contrast(model, questions) if questions[0].accepted else None,
    )


def _contrast(model: Model, questions: Sequence[Question]) -> Float[Tensor, "question d_vocab"]:
    """+1 for each answer that is right, −1 for each that is right for the counterfactual alone."""
    weights = torch.zeros(len(questions), model.cfg.d_vocab)
    for row, question in zip(weights, questions, strict=True):
        for answers, weight in ((question.corrupted_accepted, -1), (question.accepted, 1)):
            row[model.tokenizer.convert_tokens_to_ids(list(answers))] = weight
    return weights
