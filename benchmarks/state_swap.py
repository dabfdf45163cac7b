"""Does the demo answer for another state, once the features that its graphs name for a state are swapped?

Lindsey et al. 2025 ("On the Biology of a Large Language Model", the Texas -> California swap), over the questions of
the demo, with the control that it lacks. "the capital of the state containing Dallas is": what stands for Texas is
taken out, what stands for California is put in, and the answer counts where it is exactly " Sacramento".

- *Found in graphs.* Every question that was trained on is traced. A feature at the last token, below the last layer,
  stands for a state where at least `share` of the influence that it has over all graphs (each state counted alike) is
  in the graphs of that state's questions, and its mean influence there is at least `influence`.
- *Swapped* by `tlc.intervene`, constrained to the layers below the last, which has to make an answer of state and
  relation: an activation a becomes a + M (in - out), out being a where the feature stands for the question's state, in
  the mean activation where it stands for the other: over questions of the same relation, or over all in which it is
  active (`means`). Attention patterns are held, or run (`attention`).
- *Chosen on trained questions*: features are found in three quarters of them, the setting is the one that swaps most of
  the last quarter. Then features are found in all of them, and questions that nobody was trained on are swapped.
- *Control*: as many random features of the same layers, out of those active on the question and in of those active on
  any, at their mean where active, by the same M.
- *Ceiling*: at the same place, what the MLPs themselves write replaced by what they write on average over the other
  state's questions of the same relation: what a transcoder without errors could do at M = 1.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

import tl_circuits as tlc
from benchmarks.record import Record, add_options, say, settings
from tl_circuits.hooks import installed
from tl_circuits.intervention.passes import Attention
from tl_circuits.nodes import Kind
from tl_circuits.sites import Sites
from tl_circuits.zoo.world import RELATIONS, STATES, Prompt, fact, world

QUESTION = (__doc__ or "").splitlines()[0]
NAMES = [state.name for state in STATES]
ATTENTION: tuple[Attention, ...] = ("frozen", "free")
MULTIPLIERS = (0.5, 1.0, 1.5, 2.0, 3.0)


@dataclass(frozen=True)
class Setting:
    """What is chosen on trained questions: which features stand for a state, and how they are swapped."""

    share: float
    influence: float
    means: str
    multiplier: float
    attention: Attention

    @classmethod
    def grid(cls) -> "list[Setting]":
        """All that are tried."""
        shares, influences, multipliers = (0.05, 0.1, 0.2), (0.0005, 0.002), (1.0, 1.25, 1.5, 2.0)
        return [cls(*each) for each in product(shares, influences, ("relation", "all"), multipliers, ATTENTION)]


@dataclass(frozen=True)
class Trial:
    """A question, and the state that it is to be answered for."""

    prompt: Prompt
    other: int

    @property
    def state(self) -> int:
        """The state that it asks about."""
        return NAMES.index(self.prompt.state)

    @property
    def relation(self) -> int:
        """What it asks about it."""
        return RELATIONS.index(self.prompt.relation)

    @property
    def answer(self) -> str:
        """What the model is to say."""
        return f" {fact(STATES[self.other], self.prompt.relation)}"


@dataclass(frozen=True, eq=False)
class Traced:
    """The graphs of many questions at the last token, below the last layer; features of all layers in one row."""

    state: Int64[Tensor, " prompt"]
    relation: Int64[Tensor, " prompt"]
    activations: Float[Tensor, "prompt feature"]
    influence: Float[Tensor, "prompt feature"]
    writes: Float[Tensor, "prompt layer d_model"]

    @classmethod
    def of(cls, model: Any, transcoder: tlc.CrossLayerTranscoder, prompts: Sequence[Prompt]) -> "Traced":
        """Traces them all."""
        starts = _starts(transcoder)
        activations = torch.zeros(len(prompts), starts[-1])
        influence, writes = torch.zeros_like(activations), []
        for row, prompt in enumerate(prompts):
            local = tlc.localize(model, transcoder, prompt.text)
            graph = tlc.attribute(local, progress=False)
            span = graph.nodes.span(Kind.FEATURE)
            flow = dict(zip(graph.nodes.features(), graph.influence()[span].tolist(), strict=True))
            for feature, activation in zip(local.active(), local.activations.tolist(), strict=True):
                if feature.pos == local.n_pos - 1 and feature.layer < local.n_layers - 1:
                    column = starts[feature.layer] + feature.index
                    activations[row, column], influence[row, column] = activation, flow[feature]
            writes.append(torch.stack([write[0, -1].detach() for write in local.pieces.writes[:-1]]))
            if row % 200 == 0:
                say(f"  {row} of {len(prompts)} traced")
        state = torch.tensor([NAMES.index(prompt.state) for prompt in prompts])
        relation = torch.tensor([RELATIONS.index(prompt.relation) for prompt in prompts])
        return cls(state, relation, activations, influence, torch.stack(writes))

    def where(self, kept: Bool[Tensor, " prompt"]) -> "Traced":
        """Some of them."""
        return Traced(*(getattr(self, name)[kept] for name in self.__dataclass_fields__))

    def per_state(self, values: Tensor, relation: int | None = None) -> Tensor:
        """The mean over each state's questions."""
        asked = torch.ones_like(self.state, dtype=torch.bool) if relation is None else self.relation == relation
        belongs = torch.stack([(self.state == state) & asked for state in range(len(STATES))]).float()
        return torch.einsum("sp,p...->s...", belongs / belongs.sum(1, keepdim=True).clamp_min(1), values)

    def stand_for(self, setting: Setting) -> Bool[Tensor, "state feature"]:
        """Which features stand for which state."""
        mean = self.per_state(self.influence)
        return (mean >= setting.share * mean.sum(0)) & (mean >= setting.influence)

    def mean_active(self) -> Float[Tensor, " feature"]:
        """Each feature's mean activation, where it is active at all."""
        return self.activations.sum(0) / (self.activations > 0).sum(0).clamp_min(1)

    def put_in(self, setting: Setting, relation: int) -> Float[Tensor, "state feature"]:
        """The activations that a state's features are to have."""
        if setting.means == "relation":
            return self.per_state(self.activations, relation)
        active = self.per_state((self.activations > 0).float())
        return self.per_state(self.activations) / active.clamp_min(1e-9)


class Swaps:
    """Interventions on trials, with features found in these graphs."""

    def __init__(self, model: Any, transcoder: tlc.CrossLayerTranscoder, traced: Traced) -> None:
        self._model, self._transcoder, self._traced = model, transcoder, traced
        self._starts = _starts(transcoder)

    def turned(self, trials: Sequence[Trial], each: Sequence[Setting], *, control: int | None = None) -> list[int]:
        """How many trials give the other state's answer under each setting."""
        said = self.answers(trials, each, control=control)
        return [sum(a == trial.answer for a, trial in zip(answers, trials, strict=True)) for answers in said]

    def answers(
        self, trials: Sequence[Trial], each: Sequence[Setting], *, control: int | None = None
    ) -> list[list[str]]:
        """What the model says to each trial, under each setting; `control` is a seed for random features."""
        found = {(s.share, s.influence): self._traced.stand_for(s) for s in each}
        values = {(s.means, r): self._traced.put_in(s, r) for s in each for r in range(len(RELATIONS))}
        draw = None if control is None else torch.Generator().manual_seed(control)
        said: list[list[str]] = [[] for _ in each]
        for trial in trials:
            local = tlc.localize(self._model, self._transcoder, trial.prompt.text)
            now = self._now(local)
            cases: list[list[tlc.Intervention]] = []
            for s in each:
                stand_for, mean = found[s.share, s.influence], values[s.means, trial.relation][trial.other]
                out, into = stand_for[trial.state] & (now > 0), stand_for[trial.other]
                if draw is not None:
                    out, into = self._drawn(now, out, into, stand_for[trial.state], draw)
                    mean = self._traced.mean_active()
                cases.append(self._edits(now, now + s.multiplier * (into * mean - out * now)))
            attentions: set[Attention] = {s.attention for s in each}
            for attention in attentions:
                rows = [row for row, s in enumerate(each) if s.attention == attention]
                several: list[list[tlc.Intervention]] = [cases[row] for row in rows]
                results = tlc.intervene(local, several, layers=(0, local.n_layers - 2), attention=attention)
                for row, result in zip(rows, results, strict=True):
                    said[row].append(result.top_after(1)[0].text)
        return said

    def ceiling(self, trials: Sequence[Trial], attention: str) -> int:
        """How many trials turn where the MLPs' own writes are replaced."""
        count = 0
        for trial in trials:
            wanted = self._traced.per_state(self._traced.writes, trial.relation)[trial.other]
            count += _answer_with_writes(self._model, self._transcoder, trial.prompt, wanted, attention) == trial.answer
        return count

    def _now(self, local: tlc.LocalReplacementModel) -> Float[Tensor, " feature"]:
        now = torch.zeros(self._starts[-1])
        last = (local.features[:, 1] == local.n_pos - 1) & (local.features[:, 0] < local.n_layers - 1)
        columns = torch.tensor(self._starts)[local.features[last, 0]] + local.features[last, 2]
        now[columns] = local.activations[last].float()
        return now

    def _drawn(
        self,
        now: Float[Tensor, " feature"],
        out: Bool[Tensor, " feature"],
        into: Bool[Tensor, " feature"],
        of_state: Bool[Tensor, " feature"],
        draw: torch.Generator,
    ) -> tuple[Bool[Tensor, " feature"], Bool[Tensor, " feature"]]:
        ever = (self._traced.activations > 0).any(0)
        drawn_out, drawn_in = torch.zeros_like(out), torch.zeros_like(into)
        for first, stop in zip(self._starts, self._starts[1:], strict=False):
            here = torch.zeros_like(out)
            here[first:stop] = True
            for drawn, asked, among in (
                (drawn_out, out, (now > 0) & ~of_state),
                (drawn_in, into, ever & ~into),
            ):
                candidates = (among & here).nonzero().flatten()
                chosen = torch.randperm(len(candidates), generator=draw)[: int((asked & here).sum())]
                drawn[candidates[chosen]] = True
        return drawn_out, drawn_in

    def _edits(self, now: Float[Tensor, " feature"], then: Float[Tensor, " feature"]) -> list[tlc.Intervention]:
        def feature(column: int) -> tlc.Feature:
            layer = max(layer for layer, start in enumerate(self._starts) if start <= column)
            return tlc.Feature(layer, -1, column - self._starts[layer])

        changed = (now != then).nonzero().flatten().tolist()
        return [tlc.Intervention(feature(column), value=float(then[column])) for column in changed]


def main(argv: list[str] | None = None) -> None:
    """Measures and stores."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--trials", type=int, default=300, help="pairs of a held-out question and another state")
    parser.add_argument(
        "--choose", type=int, default=300, help="pairs of trained questions that settings are chosen by"
    )
    parser.add_argument("--seed", type=int, default=0)
    add_options(parser, runs=1)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    measured = {kind: _measure(kind, arguments) for kind in ("clt", "plt")}
    Record(
        question=QUESTION,
        script="state_swap",
        case={"model": "tl-circuits-demo", "states": len(STATES), "relations": len(RELATIONS)},
        settings=settings(arguments),
        figures={kind: found["figures"] for kind, found in measured.items()},
        measured={kind: found["measured"] for kind, found in measured.items()},
        seed=arguments.seed,
    ).write(arguments.out, "state_swap")


def _measure(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    model, transcoder = tlc.demo(transcoder=kind)
    known, unknown = world().of("two-hop"), world().of("two-hop", held_out=True)
    draw = torch.Generator().manual_seed(arguments.seed)
    say(f"{kind}: tracing {len(known)} trained questions")
    traced = Traced.of(model, transcoder, known)
    fitted = torch.rand(len(known), generator=draw) < 0.75
    left = [prompt for prompt, used in zip(known, fitted.tolist(), strict=True) if not used]
    trials = _trials(left, arguments.choose, draw)
    say(f"{kind}: choosing among {len(Setting.grid())} settings by {len(trials)} trained questions")
    grid = Setting.grid()
    turned = Swaps(model, transcoder, traced.where(fitted)).turned(trials, grid)
    chosen = grid[max(range(len(grid)), key=turned.__getitem__)]
    say(f"{kind}: {chosen} turns {max(turned)} of {len(trials)}")
    found = _tested(Swaps(model, transcoder, traced), chosen, unknown, arguments, draw)
    found["figures"] |= {
        "chosen": asdict(chosen),
        "trained questions": max(turned) / len(trials),
        "features per state": float(traced.stand_for(chosen).sum(1).float().mean()),
    }
    tried = [asdict(setting) | {"turned": count} for setting, count in zip(grid, turned, strict=True)]
    found["measured"] |= {"tried": tried, "tried_on": len(trials)}
    return found


def _tested(
    swaps: Swaps, chosen: Setting, prompts: Sequence[Prompt], arguments: argparse.Namespace, draw: torch.Generator
) -> dict[str, Any]:
    trials = _trials(prompts, arguments.trials, draw)
    each = [
        replace(chosen, means=means, multiplier=multiplier, attention=attention)
        for means, multiplier, attention in product(
            ("relation", "all"), sorted({*MULTIPLIERS, chosen.multiplier}), ATTENTION
        )
    ]
    turned, by_chance = swaps.turned(trials, each), swaps.turned(trials, each, control=arguments.seed)
    ceiling, row, n = swaps.ceiling(trials, chosen.attention), each.index(chosen), len(trials)
    figures = {
        "turned": turned[row] / n,
        "turned, 95 % interval": _interval(turned[row], n),
        "random features": by_chance[row] / n,
        "random features, 95 % interval": _interval(by_chance[row], n),
        "ceiling: the MLPs' own writes": ceiling / n,
        "where it fails": _failures(trials, swaps.answers(trials, [chosen])[0]),
        "trials": n,
    }
    rows = [
        asdict(s) | {"turned": one / n, "random": other / n}
        for s, one, other in zip(each, turned, by_chance, strict=True)
    ]
    kept = ("multiplier", "attention", "turned", "random")
    figures["by multiplier"] = [{name: r[name] for name in kept} for r in rows if r["means"] == chosen.means]
    return {"figures": figures, "measured": {"held_out": rows}}


def _failures(trials: Sequence[Trial], said: Sequence[str]) -> dict[str, float]:
    """Shares of all trials: what is said instead of the other state's answer."""
    counts = {"the question's own answer": 0, "a third state's": 0, "anything else": 0}
    for trial, answer in zip(trials, said, strict=True):
        if answer == trial.prompt.answer:
            counts["the question's own answer"] += 1
        elif answer != trial.answer:
            known = {f" {fact(state, trial.prompt.relation)}" for state in STATES}
            counts["a third state's" if answer in known else "anything else"] += 1
    return {what: count / len(trials) for what, count in counts.items()}


def _trials(prompts: Sequence[Prompt], count: int, draw: torch.Generator) -> list[Trial]:
    """Random questions, each with a random other state whose answer differs."""

    def drawn() -> Iterator[Trial]:
        while True:
            prompt = prompts[int(torch.randint(len(prompts), (), generator=draw))]
            trial = Trial(prompt, int(torch.randint(len(STATES), (), generator=draw)))
            if trial.answer != prompt.answer:
                yield trial

    several = drawn()
    return [next(several) for _ in range(count)]


def _answer_with_writes(
    model: Any,
    transcoder: tlc.CrossLayerTranscoder,
    prompt: Prompt,
    wanted: Float[Tensor, "layer d_model"],
    attention: str,
) -> str:
    """What the model says where MLPs write this at the last token."""
    tokens = model.to_tokens(prompt.text)
    sites = Sites.of(model, transcoder.read, transcoder.write)
    clean: dict[Any, Tensor] = {}

    def kept(tap: Any) -> Any:
        return lambda value: clean.update({tap: value.clone()})

    def put(site: Any) -> Any:
        return lambda _: torch.cat([clean[site.write][:, :-1], wanted[site.layer].expand(1, 1, -1)], dim=1)

    below = sites.sites[: len(wanted)]
    with torch.no_grad():
        with installed(model, {tap: kept(tap) for tap in (*sites.patterns, *(site.write for site in below))}):
            model(tokens)
        held = {tap: partial(_same, clean[tap]) for tap in sites.patterns if attention == "frozen"}
        with installed(model, held | {site.write: put(site) for site in below}):
            logits = model(tokens)
    return model.tokenizer.decode([int(logits[0, -1].argmax())])


def _same(kept: Tensor, _: Tensor) -> Tensor:
    return kept


def _starts(transcoder: tlc.CrossLayerTranscoder) -> list[int]:
    """Where the features of each layer below the last start in a row of all of them; and where they end."""
    return [0, *torch.tensor(transcoder.n_features[:-1]).cumsum(0).tolist()]


def _interval(count: int, of: int, z: float = 1.96) -> list[float]:
    """Wilson's interval of a share."""
    share = count / of
    middle, width = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return [(middle - width) / (1 + z * z / of), (middle + width) / (1 + z * z / of)]


if __name__ == "__main__":
    main()
