"""Trains the dictionaries that circuits are made of, once, and keeps them: the same tokens, steps and rule for all.

    python -m benchmarks.circuits.dictionaries

For every suite and seed a cross-layer transcoder (CLT), per-layer ones (PLT) with and without a skip, by this package's
trainer, and SAEs of MLP outputs, and of attention outputs and the residual stream too, by SAELens's own. All are TopK,
so that the number of active features is what was asked for. A CLT's features write several layers, which L0 does not
count; so the others are matched three ways: at the same width and k, at the same number of parameters (wider), and at
the same number of writes (a larger k). What is finished is not trained again; each folder says what it cost.
"""

import argparse
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import tl_circuits as tlc
from benchmarks.circuits.roster import Told
from benchmarks.circuits.suites import Suite
from benchmarks.circuits.tiers import TIERS
from benchmarks.record import ROOT, numbers, say
from tl_circuits.comparison import Basis
from tl_circuits.harvest import Prompts
from tl_circuits.training.run import Run
from tl_circuits.training.shards import Shards
from tl_circuits.training.source import Data, source
from tl_circuits.transcoder import CrossLayerTranscoder
from tl_circuits.transcoder.files import load_folder

CACHE = ROOT / ".cache" / "circuits"
LR = 1e-2
"""Of all: the best of 1e-3, 3e-3 and 1e-2 for either trainer, at so few steps."""
DONE = "done.json"


def path_of(folder: Path, suite: str, told: Told) -> Path:
    """The folder of one dictionary."""
    return folder / suite.replace(" ", "-") / told.folder


def is_done(place: Path, told: Told) -> bool:
    """Whether it has been trained, as told."""
    said = place / DONE
    return said.is_file() and json.loads(said.read_text(encoding="utf-8"))["told"] == asdict(told)


def train_all(suite: Suite, folder: Path, tolds: Sequence[Told]) -> None:
    """Trains what is missing. What is broken off is begun anew, by itself."""
    passing = Passing(suite)
    for told in tolds:
        place = path_of(folder, suite.name, told)
        if is_done(place, told):
            continue
        began, wall = time.process_time(), time.perf_counter()
        if told.kind in ("SAE", "SFC"):
            size = _train_saes(suite, passing, told, place)
        else:
            size = _train_transcoder(suite, told, place)
        cost = {"processor_s": round(time.process_time() - began, 2), "wall_s": round(time.perf_counter() - wall, 2)}
        record = {"told": asdict(told), "parameters": size} | cost
        (place / DONE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        say(f"{suite.name}: {told.name}, seed {told.seed}: {cost['processor_s']:.0f} s of processor")


def load(suite: Suite, folder: Path, told: Told) -> Basis:
    """The basis of a trained dictionary. Raises `FileNotFoundError` where it has not been trained."""
    place = path_of(folder, suite.name, told)
    if not is_done(place, told):
        raise FileNotFoundError(f"'{place}' holds no such dictionary: run python -m benchmarks.circuits.dictionaries.")
    if told.kind in ("SAE", "SFC"):
        return Basis.saes(suite.model, [_load_sae(part) for part in sorted(place.glob("blocks.*"))], told.name)
    return Basis.features(suite.model, load_folder(place), told.name)


def cost_of(folder: Path, suite: str, told: Told) -> Mapping[str, Any]:
    """What is written beside a dictionary: processor seconds and parameters."""
    return json.loads((path_of(folder, suite, told) / DONE).read_text(encoding="utf-8"))


@dataclass(eq=False)
class Passing:
    """What passes hook points of the model at the tokens that are trained on, run once for each point."""

    suite: Suite

    def __post_init__(self) -> None:
        self._seen: dict[str, Tensor] = {}

    def at(self, point: str) -> Float[Tensor, "token d_model"]:
        """All tokens' values at a hook point."""
        if point not in self._seen:
            parts: list[Tensor] = []
            keep = self.suite.kept.split(512)

            def seen(value: Tensor, **_: Any) -> None:
                parts.append(value[keep[len(parts)]])

            for tokens in self.suite.tokens.split(512):
                with torch.no_grad(), self.suite.model.hooks([(point, seen)]):
                    self.suite.model(tokens)
            self._seen[point] = torch.cat(parts)
        return self._seen[point]


def _train_transcoder(suite: Suite, told: Told, place: Path) -> int:
    settings = tlc.TrainingSettings(
        features=told.features,
        steps=told.steps,
        batch_tokens=told.batch_tokens,
        cross_layer=told.kind == "CLT",
        skip=told.kind == "skip PLT",
        activation="topk",
        k=told.k,
        sparsity=0.0,
        lr=LR,
        read=suite.read,
        seed=told.seed,
    )
    tokens, kept = suite.tokens, suite.kept
    found = _trained_on(suite.model, tokens, kept, settings)
    tlc.save_transcoder(found, place)
    return n_parameters(found)


def _trained_on(model: Any, tokens: Tensor, kept: Tensor, settings: tlc.TrainingSettings) -> CrossLayerTranscoder:
    data = Data(Prompts(tokens, kept), kept, None)
    run = Run.begin(model, data, source(model, data, settings), settings, Shards())
    while run.step < settings.all_steps:
        run.advance()
    return run.transcoder()


def n_parameters(found: CrossLayerTranscoder) -> int:
    """Numbers in encoders, decoders, biases and skips."""
    return sum(parameter.numel() for parameter in found.parameters())


def points_of(kind: str, n_layers: int) -> list[str]:
    """The hook points of the SAEs of a kind."""
    sites = ("hook_mlp_out",) if kind == "SAE" else ("hook_attn_out", "hook_mlp_out", "hook_resid_post")
    return [f"blocks.{layer}.{site}" for layer in range(n_layers) for site in sites]


def _train_saes(suite: Suite, passing: Passing, told: Told, place: Path) -> int:
    total = 0
    for point in points_of(told.kind, suite.model.cfg.n_layers):
        part = place / point
        total += _train_sae(passing.at(point), told, point, part)
    return total


def _train_sae(values: Float[Tensor, "token d_model"], told: Told, point: str, part: Path) -> int:
    import sae_lens
    from sae_lens.config import SAETrainerConfig
    from sae_lens.saes.sae import SAEMetadata

    torch.manual_seed(told.seed)
    metadata = SAEMetadata(hook_name=point)
    sae = sae_lens.TopKTrainingSAE(
        sae_lens.TopKTrainingSAEConfig(
            d_in=values.shape[1],
            d_sae=told.features,
            k=told.k,
            normalize_activations="expected_average_only_in",
            metadata=metadata,
        )
    )
    trainer = sae_lens.SAETrainer(
        SAETrainerConfig(
            total_training_samples=told.steps * told.batch_tokens,
            train_batch_size_samples=told.batch_tokens,
            lr=LR,
            lr_end=LR / 50,
            lr_warm_up_steps=min(50, told.steps // 8),
            lr_decay_steps=told.steps // 5,
            dead_feature_window=150,
            n_batches_for_norm_estimate=20,
        ),
        sae,
        _batches(values, told.batch_tokens, told.seed),
    )
    with redirect_stderr(io.StringIO()):
        trained = trainer.fit()
    trained.save_inference_model(part)
    return sum(parameter.numel() for parameter in trained.parameters())


def _batches(values: Float[Tensor, "token d_model"], size: int, seed: int) -> Iterator[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    left = torch.empty(0, dtype=torch.int64)
    while True:
        while len(left) < size:
            left = torch.cat([left, torch.randperm(len(values), generator=draw)])
        yield values[left[:size]]
        left = left[size:]


def _load_sae(part: Path) -> Any:
    import sae_lens

    return sae_lens.SAE.load_from_disk(part)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.circuits.dictionaries", description=__doc__)
    parser.add_argument("--tier", default="cpu", choices=TIERS, help="which ones (%(default)s)")
    parser.add_argument("--suites", help="some of the tier's, with ; between them")
    parser.add_argument("--seeds", type=numbers, help="some of the tier's, with commas between them")
    parser.add_argument("--folder", type=Path, default=CACHE, help="where they are kept (%(default)s)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    tier = TIERS[given.tier]
    began = time.process_time()
    for suite in tier.made(given.folder / tier.name):
        if given.suites is None or suite.name in given.suites.split(";"):
            wanted = [t for t in tier.dictionaries(suite) if given.seeds is None or t.seed in given.seeds]
            train_all(suite, given.folder / tier.name, wanted)
    say(f"{time.process_time() - began:.0f} s of processor")


if __name__ == "__main__":
    main()
