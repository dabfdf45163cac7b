"""A training run as a state that advances step by step, and can be put down and taken up again."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from tl_circuits.harvest import Pairs
from tl_circuits.hooks import Model
from tl_circuits.training.calibration import set_initial_biases, with_thresholds
from tl_circuits.training.checkpoint import Checkpoint, refuse_other_tensors
from tl_circuits.training.codes import Backend
from tl_circuits.training.finetuning import finetune_step
from tl_circuits.training.optimizer import Optimizer
from tl_circuits.training.pairs import Normalisation, as_transcoder
from tl_circuits.training.settings import TrainingSettings
from tl_circuits.training.shards import Shards
from tl_circuits.training.source import Data, Source, units_of
from tl_circuits.training.step import Passed, cheaper, passed, revived
from tl_circuits.training.weights import Weights, initial
from tl_circuits.transcoder import CrossLayerTranscoder

PROBE = 10
"""The density of dense codes, whose counting costs a pass over them, is measured every so many steps."""

Figures = tuple[list[float], list[float], list[int], float]
"""FVU, L0 and dead features by layer, and the loss."""


@dataclass(frozen=True)
class Step:
    """What one step did: FVU and L0 by layer, dead features by layer, and what fine-tuning measures instead."""

    step: int
    fvu: list[float]
    l0: list[float]
    dead: list[int]
    loss: float
    sparsity: float
    lr: float
    gradient_norm: float
    backend: str
    kl: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


@dataclass(eq=False)
class Run:
    """Weights, moments, counts and units of a run after `step` steps. Deterministic on one thread."""

    model: Model
    data: Data
    source: Source
    settings: TrainingSettings
    shards: Shards
    units: Normalisation
    weights: Weights
    silent: Tensor
    step: int = 0
    backend: Backend = "dense"
    optimizer: Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.weights.require_grad(True)
        self.optimizer = self._new_optimizer()

    @classmethod
    def begin(cls, model: Model, data: Data, source: Source, settings: TrainingSettings, shards: Shards) -> "Run":
        """A run before its first step."""
        units = units_of(source.sample)
        n_layers, d_model = units.read_mean.shape
        threshold = settings.threshold if settings.activation == "jump_relu" else None
        weights = initial(
            settings.architecture(n_layers, d_model),
            threshold,
            torch.Generator().manual_seed(settings.seed),
            shards.features(settings.features),
        )
        device = source.sample.reads.device
        weights = Weights(weights.shape, {name: p.to(device) for name, p in weights.parameters.items()})
        if settings.initial_l0 is not None:
            share = settings.initial_l0 / settings.features
            set_initial_biases(weights, units.normalise(source.sample).reads, share)
        silent = torch.zeros(n_layers, len(weights["b_enc.0"]), dtype=torch.float32, device=device)
        chosen = "dense" if settings.backend == "auto" else settings.backend
        return cls(model, data, source, settings, shards, units, weights, silent, backend=chosen)

    @classmethod
    def resume(
        cls, model: Model, data: Data, source: Source, settings: TrainingSettings, shards: Shards, at: Checkpoint
    ) -> "Run":
        """The run as it was when the checkpoint was written. Raises `FileError` for one of another shape."""
        sample = source.sample.reads
        shape = settings.architecture(sample.shape[0], sample.shape[2])
        rows = range(settings.features)[shards.features(settings.features)]
        refuse_other_tensors(at, shape, len(rows), settings.activation)
        device = sample.device
        held = {name: tensor.to(device) for name, tensor in at.tensors.items()}
        units = Normalisation(*[held[f"units-{part.name}"] for part in dataclasses.fields(Normalisation)])
        weights = Weights(shape, _under("weights/", held))
        backend = cast(Backend, at.state["backend"]) if settings.backend == "auto" else settings.backend
        silent = held["silent/of"].T.contiguous()
        run = cls(model, data, source, settings, shards, units, weights, silent, at.step, backend)
        run.optimizer.load(held)
        return run

    def checkpoint(self) -> Checkpoint:
        """The run as it is."""
        tensors = {f"weights/{name}": p.detach() for name, p in self.weights.parameters.items()}
        tensors |= {f"units-{part.name}": getattr(self.units, part.name) for part in dataclasses.fields(Normalisation)}
        tensors |= self.optimizer.state() | {"silent/of": self.silent.T.contiguous()}
        return Checkpoint(self.step, tensors, {"backend": self.backend})

    def advance(self) -> Step:
        """One step."""
        if self.step == self.settings.steps:
            self._end_fit()
        done = self._fit() if self.step < self.settings.steps else self._finetune()
        self.step += 1
        return done

    @torch.no_grad()
    def transcoder(self) -> CrossLayerTranscoder:
        """What has been trained so far, folded into the model's units, with the features of all shards."""
        weights, settings = self.weights, self.settings
        if settings.activation == "batch_topk" and weights.threshold(0) is None:
            weights = self._calibrated(weights)
        whole = Weights(weights.shape, self.shards.whole(weights.parameters))
        folded = self.units.folded(whole.stacked())
        name = getattr(self.model.cfg, "model_name", None)
        return as_transcoder(folded, whole.activation(settings.rule), settings.read, settings.write, name)

    def normalised(self, pairs: Pairs) -> Pairs:
        """Pairs in the run's units."""
        return self.units.normalise(pairs)

    def _fit(self) -> Step:
        settings, step = self.settings, self.step
        loss, figures, density = self._forward()
        self.optimizer.set_lr(settings.lr_at(step))
        loss.backward()
        norm = self._update()
        done = Step(step, *figures, settings.sparsity_at(step), settings.lr_at(step), norm, self.backend)
        if density is not None:
            self.backend = cheaper(density, self.silent.device.type)
        return done

    def _forward(self) -> tuple[Tensor, Figures, float | None]:
        """The loss, figures, and the density where a backend is to be chosen by it.

        Of the batch only what the backward pass needs is left then, and goes as that passes.
        """
        settings, shards = self.settings, self.shards
        drawn = self.normalised(self.source.batch(self.step))
        mine = shards.tokens(settings.batch_tokens)
        x, y = drawn.reads[:, mine], drawn.writes[:, mine]
        batch = passed(
            self.weights, x, y, settings.rule, self.backend, shards.others, shards.written, settings.working,
            settings.costs if settings.sparsity else None,
        )  # fmt: skip
        self.silent = torch.where(shards.any(batch.fired()), 0.0, self.silent + 1)
        dead = self.silent > settings.dead_after
        loss = batch.reconstruction
        if settings.sparsity:
            loss = loss + settings.sparsity_at(self.step) * batch.cost
        if settings.revival and bool(dead.any()):
            loss = loss + settings.revival * revived(self.weights, batch, dead)
        probed = settings.backend == "auto" and (self.backend == "sparse" or self.step % PROBE == 0)
        return loss, self._figures(batch, dead, loss.detach()), batch.density() if probed else None

    def _figures(self, batch: Passed, dead: Tensor, loss: Tensor) -> Figures:
        """FVU, L0 and dead features by layer, and the loss: of all features, and on average over replicas."""
        shards, exact = self.shards, torch.float64
        fvu, l0 = torch.tensor(batch.fvu(), dtype=exact), shards.total(torch.tensor(batch.l0(), dtype=exact))
        shared = batch.reconstruction.detach()
        lost = shared + shards.total(loss - shared)
        fvu, l0, lost = shards.mean(fvu), shards.mean(l0), shards.mean(lost)
        return fvu.tolist(), l0.tolist(), shards.total(dead.sum(1)).tolist(), float(lost)

    def _finetune(self) -> Step:
        settings = self.settings
        at = self.step - settings.steps
        tuned = finetune_step(self.model, self.weights, self.units, self.data, settings, self.step, self.shards)
        lr = settings.finetune_lr_at(at)
        self.optimizer.set_lr(lr)
        norm = self._update()
        dead = (self.silent > settings.dead_after).sum(1).tolist()
        kl, fvu = self.shards.mean(torch.tensor([tuned.kl, tuned.fvu], dtype=torch.float64)).tolist()
        return Step(self.step, [], [], dead, fvu + kl, settings.sparsity, lr, norm, "dense", kl)

    def _update(self) -> float:
        self.shards.average_gradients(self.weights.parameters)
        norm = self.optimizer.step()
        with torch.no_grad():
            for layer in range(self.weights.shape.n_layers):
                threshold = self.weights.threshold(layer)
                if threshold is not None:
                    # A negative threshold would let negative activations through, which no penalty here charges.
                    threshold.clamp_min_(0)
        return norm

    def _end_fit(self) -> None:
        self.optimizer.close()
        if self.settings.activation == "batch_topk":
            self.weights = self._calibrated(self.weights)
        self.weights.require_grad(True)
        self.optimizer = self._new_optimizer()

    def _calibrated(self, weights: Weights) -> Weights:
        return with_thresholds(weights, self.normalised(self.source.sample).reads, self.settings.k, self.shards.gather)

    def _new_optimizer(self) -> Optimizer:
        # Fine-tuning hands gradients to the weights twice, once for each of its terms.
        at_once = self.settings.low_memory and self.step < self.settings.steps
        return Optimizer(self.weights, low_memory=at_once, total=self.shards.total)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
