"""Several processes that train one transcoder: each has some of every layer's features, or some of each batch's tokens.

Shards of the features add up what they write, by one sum over processes in the forward pass. Every shard then computes
the same loss of the same sum, so its gradient passes back unchanged; torch.distributed's own differentiable sum would
add the gradients up again and multiply them by the number of processes.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from tl_circuits.errors import SettingError, TLCircuitsError, warn_once
from tl_circuits.training.rules import Others
from tl_circuits.training.weights import is_sharded

PATIENCE = timedelta(minutes=10)
"""How long processes wait for one that has not ended and does not answer."""


@dataclass(frozen=True, eq=False)
class Shards:
    """This process's place: which shard of `n_shards` of the features, and which of `n_replicas` of the batch."""

    shard: int = 0
    n_shards: int = 1
    replica: int = 0
    n_replicas: int = 1
    across_features: Any = None
    across_tokens: Any = None
    everyone: Any = None

    @classmethod
    def of_world(cls, n_shards: int | None = None) -> "Shards":
        """The processes of torch.distributed where it is initialised, else this one alone.

        `n_shards` processes share the features and the others repeat them on other tokens; without it, all share the
        features. Raises `SettingError` where the processes do not divide so, and warns where there is only one. What
        they do together raises `TLCircuitsError` where one of them has ended, or does not answer for ten minutes.
        """
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            if n_shards is not None and n_shards > 1:
                warn_once(
                    f"shards={n_shards} processes are to share the features, and there is one: it holds all of them. "
                    f"Start {n_shards}, say with torchrun --nproc-per-node {n_shards}, or leave shards out.",
                    stacklevel=3,
                )
            return cls()
        size, rank = dist.get_world_size(), dist.get_rank()
        n_shards = size if n_shards is None else n_shards
        if n_shards < 1 or size % n_shards:
            raise SettingError(f"shards={n_shards} do not divide {size} processes: give a divisor of {size}.")
        n_replicas = size // n_shards
        # Every process has to take part in the making of every group.
        with _others_there():
            features = [_group([r * n_shards + s for s in range(n_shards)]) for r in range(n_replicas)]
            tokens = [_group([r * n_shards + s for r in range(n_replicas)]) for s in range(n_shards)]
            everyone = _group([*range(size)])
        replica, shard = divmod(rank, n_shards)
        return cls(shard, n_shards, replica, n_replicas, features[replica], tokens[shard], everyone)

    @property
    def n_processes(self) -> int:
        """How many processes train."""
        return self.n_shards * self.n_replicas

    @property
    def rank(self) -> int:
        """This process's number among them."""
        return self.replica * self.n_shards + self.shard

    @property
    def alone(self) -> bool:
        """Whether one process does it all."""
        return self.n_processes == 1

    @property
    def speaks(self) -> bool:
        """Whether this process writes logs for all."""
        return self.shard == self.replica == 0

    def features(self, n_features: int) -> slice:
        """The features of a layer that this process has. Raises `SettingError` where there are too few."""
        if n_features < self.n_shards:
            raise SettingError(f"features={n_features} cannot be shared by {self.n_shards} processes: give more.")
        bounds = [n_features * place // self.n_shards for place in (self.shard, self.shard + 1)]
        return slice(*bounds)

    def tokens(self, n_tokens: int) -> slice:
        """The tokens of a batch that this process takes."""
        return self._share("batch_tokens", n_tokens)

    def prompts(self, n_prompts: int) -> slice:
        """The prompts of a fine-tuning step that this process takes."""
        return self._share("finetune_prompts", n_prompts)

    def _share(self, name: str, n: int) -> slice:
        if n % self.n_replicas:
            raise SettingError(f"{name}={n} do not divide over {self.n_replicas} processes: give a multiple of it.")
        each = n // self.n_replicas
        return slice(self.replica * each, (self.replica + 1) * each)

    @property
    def others(self) -> Others:
        """How this process has the others' values."""
        return Others(self.gather, self.gather_all, self.n_replicas)

    def written(self, out: Tensor) -> Tensor:
        """What all shards of the features write together; its gradient is passed on as it is."""
        return out if self.n_shards == 1 else cast(Tensor, _Summed.apply(out, self.across_features))

    def total(self, value: Tensor) -> Tensor:
        """A number summed over the shards of the features, without gradient."""
        return value if self.n_shards == 1 else _sum(value, self.across_features)

    def gather(self, values: Tensor) -> Tensor:
        """The last dimensions of all shards of the features side by side, without gradient; they may differ in size."""
        return values if self.n_shards == 1 else _side_by_side(values, self.n_shards, self.across_features)

    def gather_all(self, values: Tensor) -> Tensor:
        """The last dimensions of all processes side by side, without gradient; they may differ in size."""
        return values if self.alone else _side_by_side(values, self.n_processes, self.everyone)

    def whole(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Parameters with the features of all shards."""
        if self.n_shards == 1:
            return dict(parameters)
        return {
            name: self.gather(p.detach().movedim(0, -1)).movedim(-1, 0).contiguous() if is_sharded(name) else p
            for name, p in parameters.items()
        }

    def average_gradients(self, parameters: Mapping[str, Tensor]) -> None:
        """Means over the tokens of all replicas, in place."""
        if self.n_replicas == 1:
            return
        for parameter in parameters.values():
            gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            with _others_there():
                dist.all_reduce(gradient, group=self.across_tokens)
            parameter.grad = gradient.div_(self.n_replicas)

    def mean(self, value: Tensor) -> Tensor:
        """The mean over replicas, without gradient."""
        return value if self.n_replicas == 1 else _sum(value, self.across_tokens) / self.n_replicas

    def any(self, fired: Tensor) -> Tensor:
        """Whether a feature fired on any replica's tokens."""
        return fired if self.n_replicas == 1 else _sum(fired.to(torch.int32), self.across_tokens) > 0

    def agreed(self, flag: bool) -> bool:
        """True in every process where it is in any."""
        return flag if self.alone else bool(_sum(torch.tensor([int(flag)]), self.everyone))

    def barrier(self, *, patiently: bool = False) -> None:
        """Waits for all; `patiently`, for as long as torch.distributed was told to when it was initialised."""
        if not self.alone:
            with _others_there():
                dist.barrier(group=None if patiently else self.everyone)


def _group(ranks: list[int]) -> Any:
    return dist.new_group(ranks, timeout=PATIENCE)


@contextmanager
def _others_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise TLCircuitsError(
            f"A process of the {dist.get_world_size()} that train together has ended or does not answer "
            f"({error!s:.200}): look at what the others say, and give all of them the "
            "same call again. With a folder it goes on from the last checkpoint."
        ) from error


def _side_by_side(values: Tensor, n: int, group: Any) -> Tensor:
    size = torch.tensor([values.shape[-1]])
    sizes = [torch.zeros_like(size) for _ in range(n)]
    with _others_there():
        dist.all_gather(sizes, size, group=group)
    widest = max(int(each) for each in sizes)
    padded = torch.nn.functional.pad(values.detach(), (0, widest - values.shape[-1])).contiguous()
    parts = [torch.empty_like(padded) for _ in range(n)]
    with _others_there():
        dist.all_gather(parts, padded, group=group)
    return torch.cat([part[..., : int(each)] for part, each in zip(parts, sizes, strict=True)], dim=-1)


def _sum(value: Tensor, group: Any) -> Tensor:
    summed = value.detach().clone().contiguous()
    with _others_there():
        dist.all_reduce(summed, group=group)
    return summed


class _Summed(torch.autograd.Function):
    """A sum over processes whose loss is the same in each."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, group: Any) -> Tensor:
        ctx.set_materialize_grads(False)
        return _sum(out, group)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad_outputs[0], None
