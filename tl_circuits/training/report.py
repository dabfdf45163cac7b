"""What a training run made: fidelity between floor and ceiling, silent features, and what is written across layers."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from tl_circuits.graph.asked import flag
from tl_circuits.harvest import Prompts, collect
from tl_circuits.hooks import Model
from tl_circuits.intervention import FidelityReport, evaluate
from tl_circuits.transcoder import CrossLayerTranscoder

TOKENS_OF_SHARES = 8192
WIDTH = 120


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """`fidelity` has figures, dead features and density histograms by layer; `shares` who writes what.

    `shares[s, l]` is Σ⟨ŷ_s, ŷ⟩ / Σ‖ŷ‖² over tokens, the share of what is explained of layer l's MLP that features of
    layer s write, without b_dec and skips. A column sums to 1; NaN where features write nothing. `across[l]` is what
    lower layers write. Such a share alone does not tell hop collapse from a feature that stands for a chain of alike
    ones: compare with a per-layer transcoder. `trained_on`: the prompts are of the training data.
    """

    fidelity: FidelityReport
    shares: Float[Tensor, "source written"]
    trained_on: bool = False

    @property
    def across(self) -> list[float]:
        """For each MLP, the share that features of lower layers write."""
        return (1 - self.shares.diagonal()).tolist()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; None where nothing is written."""
        rows = [[None if value != value else value for value in row] for row in self.shares.tolist()]
        return {"fidelity": self.fidelity.to_dict(), "write_shares": rows, "trained_on": self.trained_on}

    def __str__(self) -> str:
        console = Console(width=WIDTH, file=io.StringIO(), color_system=None)
        with console.capture() as printed:
            console.print(self)
        return "\n".join(line.rstrip() for line in printed.get().splitlines())

    __repr__ = __str__

    def __rich__(self) -> Group:
        table = Table(
            "written by layer", *[f"into {layer}" for layer in range(len(self.shares))], title="Write shares", box=None
        )
        for source, row in enumerate(self.shares.tolist()):
            cells = [f"{value:.2f}" if layer >= source and value == value else "" for layer, value in enumerate(row)]
            table.add_row(str(source), *cells)
        seen = ["Of the training data, not of prompts held out.", ""] if self.trained_on else []
        return Group(*seen, Text(str(self.fidelity)), table)


def training_report(
    model: Model, transcoder: CrossLayerTranscoder, data: Any, *, trained_on: bool = False
) -> TrainingReport:
    """The report of a transcoder on prompts, best on such as it was not trained on; else `trained_on` has it said.

    `data` is as for `train`; of a stream, the first 8,192 tokens.
    """
    flag("trained_on", trained_on)
    read = Prompts.of(model, data, most_tokens=TOKENS_OF_SHARES)
    # Data sets have empty rows, of which nothing can be said.
    counting = read.kept.any(1)
    prompts = Prompts(read.tokens[counting], read.kept[counting])
    rows = [row[:length] for row, length in zip(prompts.tokens, _lengths(prompts), strict=True)]
    return TrainingReport(evaluate(model, transcoder, rows), write_shares_of(model, transcoder, prompts), trained_on)


@torch.no_grad()
def write_shares_of(
    model: Model, transcoder: CrossLayerTranscoder, prompts: Prompts
) -> Float[Tensor, "source written"]:
    """The share of each layer's explained output that features of each layer write, over the kept tokens."""
    some = max(1, TOKENS_OF_SHARES // prompts.tokens.shape[1])
    pairs = collect(model, prompts.tokens[:some], prompts.kept[:some], transcoder.read, transcoder.write)
    active = [transcoder.encode(x, layer) for layer, x in enumerate(pairs.reads)]
    shares = torch.zeros(transcoder.n_layers, transcoder.n_layers, dtype=torch.float64)
    for layer in range(transcoder.n_layers):
        parts = {source: _written(transcoder, active, source, layer) for source in transcoder.sources(layer)}
        whole = torch.stack(list(parts.values())).sum(0)
        for source, part in parts.items():
            shares[source, layer] = (part * whole).sum() / whole.square().sum()
    return shares


def _written(
    transcoder: CrossLayerTranscoder, active: Sequence[Tensor], source: int, layer: int
) -> Float[Tensor, "token d_model"]:
    outgoing = transcoder.outgoing(active[source], source, layer)
    return (outgoing @ transcoder.W_dec[source][:, layer - source].to(outgoing)).to(torch.float64)


def _lengths(prompts: Prompts) -> list[int]:
    # Padding comes after the last token that counts.
    place = torch.arange(1, prompts.kept.shape[1] + 1)
    return [max(1, int(length)) for length in (prompts.kept * place).max(1).values]
