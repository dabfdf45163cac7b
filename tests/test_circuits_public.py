"""The hub tier of the circuits benchmark: all its cases on stand-ins, by the real names, files and loaders."""

import json
import re
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch

import tl_circuits as tlc
from benchmarks.circuits import measure, public, summary
from benchmarks.circuits.suites import Suite, Width
from tests import models, stand_ins
from tests.hub import Hub, served
from tests.test_comparison import task
from tl_circuits.comparison import Basis, Task
from tl_circuits.comparison.scorers import scores

ROOT = Path(__file__).parents[1]
CAPITALS = {f"Fact: the capital of {country} is": f" {city}" for country, city in public.CAPITALS.items()}
UNITS = {
    "gpt2": {"CLT": 12, "SAEs, residual stream": 12},
    "pythia-70m": {"sparse feature circuit": 18},
    "gemma-2-2b": {"CLT": 26, "PLT": 26},
    "gemma-3-1b": {"CLT": 26, "PLT": 26},
}
"""By case, the dictionaries that are to have curves, and their slots."""
FEW_SIZES = "from benchmarks.circuits import measure, __main__; measure.LARGEST = 0; measure.STEPS = 1; __main__.main()"
"""The command, in a process whose shapes nobody checks, and in which a curve has three sizes."""


def texts() -> list[str]:
    """All texts of the hub tier's tasks, and their answers."""
    drawn = (public.texts(name, drawn_by, 40, 0) for name, drawn_by in public.TASKS.items())
    return [part for pairs in drawn for text in pairs for part in text]


@pytest.fixture(scope="module")
def of_hub_tier(running_hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command writes down of all cases, of models that know some capitals."""
    place = tmp_path_factory.mktemp("hub_tier")
    options = ["--tier", "hub", "--tasks", "capitals", "--n-prompts", "4", "--out", str(place / "out.json")]
    with served(running_hub, place) as hub:
        for serve in stand_ins.CASES.values():
            serve(hub, texts(), CAPITALS)
        command = [sys.executable, "-c", FEW_SIZES, *options]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads((place / "out.json").read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("name", public.CASES)
def test_every_dictionary_of_a_case_of_the_hub_tier_has_curves_by_the_real_loaders(
    of_hub_tier: dict[str, Any], name: str
) -> None:
    figures, readings = of_hub_tier["figures"][name], of_hub_tier["measured"][name]["capitals"]
    assert figures["failed"] == {}
    assert figures["accuracy"] == {"capitals": 1.0}
    curves = figures["curves"]["capitals"]
    assert set(curves) == {"neurons", "heads and MLPs", *UNITS[name]}
    assert curves["neurons"]["F(all)"]["value"] == pytest.approx(1, abs=1e-3)
    # With no unit on the circuit every MLP writes what it wrote in the counterfactual's run, whatever the units.
    for basis in curves.keys() & {"CLT", "PLT"}:
        assert readings[basis]["corrupted"]["empty"] == pytest.approx(
            readings["neurons"]["corrupted"]["empty"], abs=1e-4
        )
    for basis, slots in UNITS[name].items():
        assert curves[basis]["F"][0] == 0
        found = curves[basis]["fidelity"]
        assert len(found["L0"]) == len(found["FVU"]) == slots
        assert sum(found["L0"]) > 0
        assert all(0 < share < float("inf") for share in found["FVU"])
        assert found["KL"] > 0


def test_a_model_that_is_missing_or_gated_is_said_in_one_line_with_what_to_try_next(hub: Hub) -> None:
    missing = public.run_case(public.CASES["gemma-2-2b"], 2)
    stand_ins.serve_model(hub, "gemma-3", n_layers=1, repository="google/gemma-3-1b-pt")
    hub.gated.add("google/gemma-3-1b-pt")
    gated = public.run_case(public.CASES["gemma-3-1b"], 2)
    for found, said in (
        (missing, r"google/gemma-2-2b was not loaded\. OSError: .* Next: look whether it is there under that name"),
        (
            gated,
            r"google/gemma-3-1b-pt was not loaded\. OSError: .* Next: accept its terms on its page on the hub, and",
        ),
    ):
        assert list(found["failed"]) == ["model"]
        assert "\n" not in found["failed"]["model"]
        assert re.match(said, found["failed"]["model"])
    assert summary.of_public({"gemma-2-2b": missing})["gemma-2-2b"]["curves"] == {}


# Of random weights not every prompt has something to explain.
@pytest.mark.filterwarnings("ignore:.*measures no higher than the empty circuit:tl_circuits.TLCircuitsWarning")
@pytest.mark.slow
def test_dictionaries_that_are_missing_or_damaged_stop_no_others(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.pythia_case(hub, texts(), CAPITALS)
    (hub.root / "ctigges/pythia-70m-deduped__att-sm_processed/3-att-sm/sae_weights.safetensors").write_bytes(b"cut off")
    monkeypatch.setattr(measure, "LARGEST", 0)
    # Shapes are checked by other tests; here that would take most of the time.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    tasks = {"capitals": public.TASKS["capitals"], "too long": lambda _: ("a", "a b", " is", " are")}
    found = public.run_case(public.CASES["pythia-70m"], 4, [("CLT", "nobody/nothing", None)], tasks)
    assert set(found["failed"]) == {"sparse feature circuit", "CLT", "too long"}
    assert re.search(r"'blocks\.3\.hook_attn_out'.*SafetensorError", found["failed"]["sparse feature circuit"])
    assert "There is no repository 'nobody/nothing'" in found["failed"]["CLT"]
    assert "No prompt was answered right (share 0.00" in found["failed"]["too long"]
    assert set(found["curves"]["capitals"]) == {"neurons", "heads and MLPs"}


def test_a_backward_pass_of_a_lean_basis_keeps_no_copy_of_a_weight() -> None:
    model = models.model_of("gpt2", "hooked")
    # The model is in another dtype: each weight is cast before it is used.
    basis = Basis.features(model, models.transcoder(dtype=torch.float32))
    (wide, narrow) = (_scored(model, each) for each in (basis, public.lean(basis)))
    for one, other in zip(wide[0], narrow[0], strict=True):
        torch.testing.assert_close(one, other)
    weight = torch.Size([models.N_FEATURES, models.D_MODEL])
    assert weight in wide[1]
    assert weight not in narrow[1]


def _scored(model: Any, basis: Basis) -> tuple[Any, set[torch.Size]]:
    """Scores, and the shapes of what backward passes kept for them."""
    kept: set[torch.Size] = set()

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.add(value.shape)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        return scores(model, basis, task(model), "attribution-patching"), kept


def test_fidelity_leaves_bos_out_and_is_else_that_of_all_positions() -> None:
    model, plt = tlc.demo("hooked", transcoder="plt")
    asked = Task.of(model, [("10+10=", "10+30=", "2", "4"), ("11+17=", "11+30=", "2", "4")])
    basis = Basis.features(model, plt)
    worse = replace(basis, slots=tuple(replace(slot, decode=_off_at_first(slot.decode)) for slot in basis.slots))
    suite = Suite("demo", model, "", torch.zeros(0, 1).long(), torch.zeros(0, 1).bool(), Width(0, 0, 0, 0), {})
    # The first token is BOS: what is written there is the model's own.
    assert _as_row(public.fidelity(model, worse, asked)) == pytest.approx(
        _as_row(public.fidelity(model, basis, asked)), rel=1e-3
    )
    assert measure.fidelity(suite, worse, asked)["FVU"][1] > 2 * measure.fidelity(suite, basis, asked)["FVU"][1]
    without = Task("any", asked.clean[:, 1:], asked.corrupted[:, 1:], asked.answer, asked.corrupted_answer)
    everywhere = measure.fidelity(suite, basis, without)
    assert _as_row(public.fidelity(model, basis, without)) == pytest.approx(_as_row(everywhere))


def _as_row(found: dict[str, Any]) -> list[float]:
    return [found["same answer"], found["KL"], *found["L0"], *found["FVU"]]


def _off_at_first(decode: Any) -> Any:
    def off(units: Any) -> torch.Tensor:
        written = decode(units).clone()
        written[:, 0, ::2] += 100
        return written

    return off


def test_a_dictionary_waits_for_the_weights_that_it_was_trained_on(tmp_path: Path) -> None:
    model = models.model_of("gpt2", "bridge")
    for processed in (False, True):
        transcoder = deepcopy(models.transcoder(dtype=torch.float64))  # the other is shared by all tests
        transcoder.processed_weights = processed
        folder = tmp_path / str(processed)
        tlc.save_transcoder(transcoder, folder)
        make = dict(public._bases(public.CASES["pythia-70m"], [("CLT", str(folder), None)]))["CLT"]
        assert make(model, not processed) is None
        if not processed:
            assert isinstance(make(model, processed), Basis)
            continue
        # This model's weights are as they were made.
        with pytest.raises(tlc.FitError, match=r"processed_weights=True\), but this model's are not"):
            make(model, processed)
    saes = dict(public._bases(public.CASES["gpt2"], []))["SAEs, residual stream"]
    assert saes(model, False) is None
