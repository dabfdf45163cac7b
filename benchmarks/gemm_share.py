"""What share of the machine's matrix-product speed does the feature phase reach?

The feature phase is what a full graph takes beyond a graph with a single feature expanded, on the same local model, and
beyond the passes over prefixes that are made for many rows: rows of features, keeping them, putting them together and
checking them. Its work is counted twice.

- *Needed*, from shapes. A feature that reads at layer l and position p depends on n = p + 1 positions. With d = d_model
  and a = n_heads · d_head, counting a multiplication and an addition as 2:

      own block        2·d·a + 2·n·a + 2·n·d·a             W_O at one position, one row of each pattern, W_V
      each block k < l 2·(2·n·d·a) + a·n·(n + 1)           W_O and W_V at n positions, patterns below the diagonal
      each write k < l 2·d·(s + 2·n)                       s features that write at layer k and positions < n (of
                                                           layers ≤ k, or = k per layer), errors and b_dec
      embeddings       4·n·d                               tokens and positions

- *Executed*, by torch's own formulas for the matrix products of a run that is not timed: it includes positions that a
  batch carries along and entries above the diagonal. What is not a matrix product is in neither.

Both are divided by the same time, and by the best speed of two products measured beside it.
"""

import argparse
import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

import tl_circuits as tlc
from benchmarks.case import Case, write
from benchmarks.measure import gemm_gflops, seconds
from benchmarks.record import Record, add_options, median, settings
from benchmarks.workers import ours
from tl_circuits.replacement.sweep import Sweep


def feature_phase(local: tlc.LocalReplacementModel, device: str = "cpu", *, count: bool = True) -> dict[str, float]:
    """Time and work of the feature phase, and the machine's speed beside it. Executed work only where it is counted."""

    def one() -> tlc.AttributionGraph:
        return tlc.attribute(local, max_features=1, progress=False)

    def full() -> tlc.AttributionGraph:
        return tlc.attribute(local, progress=False)

    def made_ready(n_rows: int | None) -> Sweep:
        return Sweep.of(local, n_rows=n_rows)

    # The first calls also fill what the local model keeps for later ones, and take memory from the system.
    one()
    full()
    before = gemm_gflops(device)
    alone, whole = seconds(one, device)[1], seconds(full, device)[1]
    passes = seconds(lambda: made_ready(None), device)[1] - seconds(lambda: made_ready(1), device)[1]
    after = gemm_gflops(device)
    found = {"seconds": whole - alone - passes, "gemm_gflops": max(*before.values(), *after.values())}
    found["needed_gflop"] = needed_flops(local) / 1e9
    if count:
        passed = _executed(lambda: made_ready(None)) - _executed(lambda: made_ready(1))
        found["executed_gflop"] = (_executed(full) - _executed(one) - passed) / 1e9
    return found


def shares(phases: list[dict[str, float]]) -> dict[str, float]:
    """What `feature_phase` found in some runs, the first of them counted, as medians."""
    (executed,) = {phase["executed_gflop"] for phase in phases if "executed_gflop" in phase}
    needed = phases[0]["needed_gflop"]
    return {
        "seconds": median(phase["seconds"] for phase in phases),
        "gemm_gflops": median(phase["gemm_gflops"] for phase in phases),
        "executed_gflops": median(executed / phase["seconds"] for phase in phases),
        "needed_gflops": median(needed / phase["seconds"] for phase in phases),
        "executed_share": median(executed / phase["seconds"] / phase["gemm_gflops"] for phase in phases),
        "needed_share": median(needed / phase["seconds"] / phase["gemm_gflops"] for phase in phases),
    }


def needed_flops(local: tlc.LocalReplacementModel) -> int:
    """The work of all rows of features, by the formula above."""
    cfg = local.model.cfg
    d, a = cfg.d_model, cfg.n_heads * cfg.d_head
    layer, pos = local.features[:, 0].cpu(), local.features[:, 1].cpu()
    cells = torch.bincount(layer * local.n_pos + pos, minlength=local.n_layers * local.n_pos)
    writers = cells.view(local.n_layers, local.n_pos).cumsum(1)
    if not local.transcoder.is_per_layer:
        writers = writers.cumsum(0)
    # Of a feature at (l, p): how many features write at layers below l and positions up to p, summed over those layers.
    below = torch.cat([torch.zeros(1, local.n_pos, dtype=torch.int64), writers.cumsum(0)])[layer, pos]
    n = pos + 1
    own = 2 * d * a + 2 * n * a + 2 * n * d * a
    block = 4 * n * d * a + a * n * (n + 1)
    writes = 2 * d * (below + 2 * n * layer)
    return int((own + layer * block + writes + 4 * n * d).sum())


class MatrixProducts(TorchDispatchMode):
    """Counts the operations of all matrix products that run meanwhile, by the formulas of torch's own counter.

    That counter itself follows modules by hooks, which passes that are pulled back in pieces do not suffer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operation and counts it."""
        out = func(*args, **(kwargs or {}))
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def _executed(work: Callable[[], object]) -> int:
    with MatrixProducts() as products:
        work()
    return products.flops


def main(argv: list[str] | None = None) -> None:
    """Measures the share on a random case."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    Case.add_options(parser)
    add_options(parser)
    arguments = parser.parse_args(argv)
    case = Case.of(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write(case, folder)
        runs = [ours(folder, share=True, count=run == 0)["feature_phase"] for run in range(arguments.runs)]
    record = Record(
        question=(__doc__ or "").splitlines()[0],
        script="gemm_share",
        case=dataclasses.asdict(case),
        settings=settings(arguments, *dataclasses.asdict(case)),
        figures=shares(runs),
        measured={"runs": runs},
        seed=case.seed,
    )
    record.write(arguments.out, f"gemm_share-{case.kind}-{case.n_tokens}")


if __name__ == "__main__":
    main()
