"""Features on a grid of prompts such as "36+59=": one prompt for each pair of operands."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tl_circuits.errors import SettingError
from tl_circuits.features.encoders import Encoder
from tl_circuits.features.stream import passes
from tl_circuits.graph.asked import whole
from tl_circuits.hooks import Model, run_to
from tl_circuits.sites import Sites
from tl_circuits.transcoder import CrossLayerTranscoder

TOKENS_PER_PASS = 4096


@dataclass(frozen=True)
class Operands:
    """Prompts to plot features on: `template` with each `a` and each `b`, read at the last token.

    Raises `SettingError` for a template that does not hold both {a} and {b} once, and for operands that are no numbers.
    """

    template: str = "{a}+{b}="
    a: Sequence[int] = field(default=range(100))
    b: Sequence[int] = field(default=range(100))

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or self.template.count("{a}") != 1 or self.template.count("{b}") != 1:
            raise SettingError(
                f"template={self.template!r:.80} has to hold {{a}} and {{b}} once each: say '{{a}}+{{b}}='."
            )
        for name in ("a", "b"):
            given = getattr(self, name)
            if not isinstance(given, Sequence) or not len(given) or any(whole(one) is None for one in given):
                raise SettingError(f"{name}={given!r:.80} are no operands: give whole numbers, say range(10, 100).")

    def prompts(self) -> list[str]:
        """The prompts, row by row of the grid."""
        return [self.template.replace("{a}", str(a)).replace("{b}", str(b)) for a in self.a for b in self.b]


def operand_grids(
    model: Model, transcoder: CrossLayerTranscoder, encoders: Sequence[Encoder], operands: Operands
) -> dict[int, Tensor]:
    """The activations of each layer's features, as (feature, a, b)."""
    sites = Sites.of(model, transcoder.read, transcoder.write).sites
    found: dict[int, list[Tensor]] = {encoder.layer: [] for encoder in encoders}
    n_prompts = 0
    for part in passes(model, operands.prompts(), None, TOKENS_PER_PASS):
        last = part.kept.shape[1] - 1 - part.kept.flip(1).int().argmax(1)
        rows = torch.arange(len(last))
        n_prompts += len(last)

        def keep(x: Tensor, encoder: Encoder, rows: Tensor = rows, last: Tensor = last) -> None:
            read = x[rows.to(x.device), last.to(x.device)]
            parts = [encoder.encode(read, columns).float().cpu() for columns in encoder.slices(len(rows))]
            found[encoder.layer].append(torch.cat(parts, dim=1))

        functions = {sites[each.layer].read: lambda x, each=each: keep(x, each) for each in encoders}
        device = next(model.parameters()).device
        run_to(model, part.tokens.to(device), functions, sites[encoders[-1].layer].read)
    if n_prompts != len(operands.a) * len(operands.b):
        raise SettingError(
            f"{len(operands.a) * len(operands.b)} prompts like {operands.prompts()[0]!r} became {n_prompts}: they are "
            "longer than the model's context; give a shorter template."
        )
    shape = (-1, len(operands.a), len(operands.b))
    return {layer: torch.cat(parts).T.reshape(shape) for layer, parts in found.items()}
