"""The laws of interventions: circuit-tracer's numbers, the graph's edges, and what each mode holds."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tl_circuits as tlc
from tests import models
from tests.graphs import GOLDEN
from tests.test_golden import model_of, read, transcoder_of
from tests.test_laws import EXAMPLES, PROBED, draw_local, every_class, every_family, every_kind, tolerance
from tl_circuits.intervention.edits import Edits
from tl_circuits.intervention.passes import Way, run
from tl_circuits.nodes import Feature, Kind
from tl_circuits.replacement import LocalReplacementModel

# circuit-tracer's modes, as tl_circuits.intervention.passes maps them.
MAPPED = {
    "direct_all_layers": {"mode": "direct"},
    "freeze_attention": {"mode": "added", "attention": "frozen"},
    "free": {"mode": "added", "attention": "free"},
}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
@pytest.mark.parametrize("mode", MAPPED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_interventions_are_circuit_tracers(path: Path, mode: str, dtype: torch.dtype) -> None:
    tensors, about = read(path)
    exact = dtype == torch.float64
    local = tlc.localize(model_of(tensors, about, dtype, exact), transcoder_of(tensors, about), tensors["tokens"], (0,))
    rows = [row for row, given in enumerate(about["interventions"]) if given["mode"] == mode]
    asked = [about["interventions"][row] for row in rows]
    cases = [[tlc.Intervention(Feature(i["layer"], i["pos"], i["feature"]), value=i["value"])] for i in asked]
    assert len(cases) == 18
    expected = tensors["expected.interventions.last_logits"][rows]
    preactivations = tensors["expected.interventions.preacts_at_active"][rows]
    scale = float(expected.abs().max())
    for result, logits, read_by in zip(
        tlc.intervene(local, cases, **MAPPED[mode]), expected, preactivations, strict=True
    ):
        torch.testing.assert_close(result.logits[-1].double(), logits, atol=1e-5 * scale, rtol=0)
        active = torch.isin(keys(result.changes.features), keys(local.features))
        torch.testing.assert_close(
            result.changes.preactivations_after[active].double(),
            read_by,
            atol=(1e-6 if exact else 1e-4) * scale,
            rtol=0,
        )


def keys(features: Tensor) -> Tensor:
    return (features[:, 0] * 10_000 + features[:, 1]) * 10_000 + features[:, 2]
