"""clt-training (EleutherAI, a fork of sparsify): a folder for each hookpoint, with three ways to tie decoders.

    config.json                       hookpoints, hookpoints_in, model: of the whole run
    {hookpoint}/cfg.json              d_in, k, activation, transcode, n_targets, coalesce_topk, per_source_tied,
                                      secondary_target_tied, normalize_io, divide_cross_layer, skip_connection, …
    {hookpoint}/sae.safetensors       encoder.weight (feature, d_model), encoder.bias; W_dec or W_decs.{k} (feature,
                                      d_model), b_dec or b_decs.{k}, W_skip or W_skips.{k} (d_out, d_in), post_enc or
                                      post_encs.{k}, post_enc_scale or post_enc_scales.{k} (feature), in_norm, out_norm

    x̂ = x·√d/in_norm,  a = the k largest of max(encoder(x̂), 0), or for groupmax the largest of each of k groups
    z^t = Σ_{s≤t} (W^{s→t} ((a^s + post_enc·1[a^s > 0])·scale) + b^{s→t}) (+ W_skip x̂^t),  ŷ^t = z^t·out_norm^t/√d

- untied: W^{s→t} is W_decs.{t−s} of s; `per_source_tied`: W_dec of s for every t. b^{s→t} is b_decs.{t−s} of s.
- `coalesce_topk: concat`: W_dec of t for every s; `per-layer`: the part of W_dec of t that is s's. b_dec of t, once.
- `divide_cross_layer` divides what comes from below by the number of layers that it comes from.
- `secondary_target_tied` adds W_decs.0, b_decs.0 and W_skips.0 of t once more, for all sources together.
- post_enc and scale are those of the source for its target, post_encs.{t−s} of s, however decoders are tied: what ties
  adds up to one W^{s→t} has one shift. Files from before there was a post-encoder have none, which means 0.

What is refused, with the reason: skips between layers, a top-k over several layers (`topk_coalesced`), BatchTopK, of
which no threshold is stored, and a k that differs between layers.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tl_circuits.errors import FileError
from tl_circuits.transcoder.activations import Activation
from tl_circuits.transcoder.files.activations import build
from tl_circuits.transcoder.files.configs import Config, read_json
from tl_circuits.transcoder.files.folding import Normalisation, fold
from tl_circuits.transcoder.files.hf_names import read_point, write_point
from tl_circuits.transcoder.files.layers import Layer, assemble, without_zero_shifts
from tl_circuits.transcoder.files.layout import Format, every_layer, matching
from tl_circuits.transcoder.files.refusals import BETWEEN_LAYERS, JOINT, refuse_nonzero
from tl_circuits.transcoder.files.tensors import TensorFile, open_tensors
from tl_circuits.transcoder.transcoder import CrossLayerTranscoder

_CONFIG, _WEIGHTS, _RUN = "cfg.json", "sae.safetensors", "config.json"
_COALESCED = ("concat", "per-layer")


def choices(folder: Path) -> tuple[str, ...]:
    """One transcoder, or one for each seed."""
    # SAELens calls its settings the same, and its weights otherwise.
    if any(folder.glob("*/sae_weights.safetensors")):
        return ()
    found = {path.parent.relative_to(folder) for path in folder.glob(f"*/{_CONFIG}")}
    if any(_number(path.name) is not None for path in found):
        return ("",)
    seeds = {path.parent.name for path in folder.glob(f"*/seed*/{_CONFIG}")}
    return tuple(sorted(seeds)) if len(seeds) > 1 else ("",) * len(seeds)


def load(folder: Path, choice: str) -> CrossLayerTranscoder:
    """Read all hookpoints of one run and seed, in the order of their layers."""
    folders = _hookpoints(folder, choice)
    coders = tuple(
        _Coder(read_json(path / _CONFIG), open_tensors(path / _WEIGHTS), number) for number, path in enumerate(folders)
    )
    run = _Run(coders)
    layers = [run.layer(number) for number in range(len(coders))]
    read, write, model_name = _places(folder, folders)
    return assemble(
        folder,
        without_zero_shifts(fold(layers, run.normalisation())),
        run.activation(),
        read=read,
        write=write,
        model_name=model_name,
    )


def _number(name: str) -> int | None:
    """The number of the layer in the name of a hookpoint."""
    match = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    return None if match is None else int(match[1])


def _hookpoints(folder: Path, choice: str) -> list[Path]:
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        number = _number(path.name) if path.is_dir() else None
        if number is None:
            continue
        if number in found:
            raise FileError(
                f"'{folder}' holds two hookpoints of layer {number}, '{found[number].name}' and '{path.name}': keep "
                "the transcoders of one kind of place in a folder of their own."
            )
        seed = choice or next((each.parent.name for each in sorted(path.glob(f"seed*/{_CONFIG}"))), "")
        found[number] = path / seed
    some = next(iter(found.values()))
    name = re.sub(r"\d+", "{}", (some if _number(some.name) is not None else some.parent).name, count=1)
    return every_layer(folder, found, name)


@dataclass(frozen=True)
class _Coder:
    """The coder of one layer."""

    config: Config
    file: TensorFile
    number: int

    @property
    def d_model(self) -> int:
        return self.config.count("d_in")

    @property
    def n_features(self) -> int:
        return self.file.get("encoder.bias", None).shape[0]

    @property
    def n_targets(self) -> int:
        """How many layers it writes: at least its own."""
        return max(1, self.config.count("n_targets", 0, least=0))

    @property
    def coalesced(self) -> str:
        return self.config.choice("coalesce_topk", {"none", *_COALESCED}, "none")

    def part(self, name: str, k: int, *shape: int) -> Tensor:
        """`name` for the k-th target: in a list of that name, or alone where there is one target only."""
        listed = f"{name}s.{k}"
        return self.file.get(listed if listed in self.file.shapes or k > 0 else name, *shape)

    def scaled(self, rows: Tensor, k: int) -> Tensor:
        """Decoder rows times the post-encoder's scale for the k-th target."""
        if not self.config.flag("post_encoder_scale", False):
            return rows
        return rows * self.part("post_enc_scale", k, self.n_features)[:, None]

    def shift(self) -> Tensor:
        """The post-encoder's shifts for all targets: (feature, layers written)."""
        if self.file.shapes.keys().isdisjoint({"post_enc", "post_encs.0"}):
            return torch.zeros(self.n_features, self.n_targets)
        return torch.stack([self.part("post_enc", k, self.n_features) for k in range(self.n_targets)], dim=1)

    def decoder(self, k: int) -> Tensor:
        """What its own file says of the k-th target: (feature, d_model)."""
        tied = self.config.flag("per_source_tied", False) or self.coalesced in _COALESCED
        if tied:
            return self.file.get("W_dec", self.n_features, self.d_model)
        return self.part("W_dec", k, self.n_features, self.d_model)

    def skip(self) -> Tensor | None:
        """x̂ @ this is added at its own layer; what is added at others has to be 0."""
        if not self.config.flag("skip_connection", False):
            return None
        for k in range(1, 1 if self.coalesced in _COALESCED else self.n_targets):
            refuse_nonzero(self.file, f"W_skips.{k}", (self.d_model, self.d_model), BETWEEN_LAYERS)
        return self.part("W_skip", 0, self.d_model, self.d_model).T

    def norm(self, name: str) -> float:
        """√d over a norm's mean length, or 1."""
        if not self.config.flag("normalize_io", False):
            return 1.0
        length = float(self.file.get(name, 1))
        if not length > 0:
            raise FileError(f"{name} in '{self.file.path}' is {length}, but the mean length of vectors is positive.")
        return math.sqrt(self.d_model) / length


@dataclass(frozen=True)
class _Run:
    """The coders of all layers, which read one another's decoders."""

    coders: tuple[_Coder, ...]

    def layer(self, number: int) -> Layer:
        """One layer, still in normalised units."""
        coder = self.coders[number]
        if not coder.config.flag("transcode", False):
            raise coder.config.error("transcode", "not set: this is an autoencoder, and no transcoder")
        if number + coder.n_targets > len(self.coders):
            raise FileError(
                f"n_targets: {coder.n_targets} in '{coder.config.path}' reaches layer {number + coder.n_targets - 1}, "
                f"but hookpoints of {len(self.coders)} layers are there: fetch the missing ones."
            )
        targets, skip = range(number, number + coder.n_targets), coder.skip()
        return Layer(
            coder.file.get("encoder.weight", coder.n_features, coder.d_model),
            coder.file.get("encoder.bias", coder.n_features),
            torch.stack([self._rows(number, target) for target in targets], dim=1),
            self._bias(number),
            skip if skip is None or not self._is_twice(coder) else 2 * skip,
            coder.shift(),
        )

    def _is_twice(self, target: _Coder) -> bool:
        """Whether what the target's own coder adds is added once more, for all sources together."""
        return target.config.flag("secondary_target_tied", False) and target.coalesced not in _COALESCED

    def _sources(self, target: int) -> list[int]:
        return [source for source in range(target + 1) if source + self.coders[source].n_targets > target]

    def _divisor(self, source: int, target: int) -> int:
        divided = self.coders[target].config.flag("divide_cross_layer", False)
        return max(1, len(self._sources(target)) - 1) if divided and source < target else 1

    def _rows(self, source: int, target: int) -> Tensor:
        """W^{s→t} with all that multiplies it: (feature, d_model)."""
        here, there, k = self.coders[source], self.coders[target], target - source
        n_features, d_model = here.n_features, here.d_model
        if there.coalesced == "concat":
            return here.scaled(there.file.get("W_dec", n_features, d_model), k)
        if there.coalesced == "per-layer":
            start = self._sources(target).index(source) * n_features
            rows = there.file.get("W_dec", None, d_model)[start : start + n_features]
            if len(rows) < n_features:
                raise FileError(
                    f"W_dec in '{there.file.path}' ends before the {n_features} rows of layer {source} from {start} "
                    "on: fetch the file again."
                )
            return here.scaled(rows, k)
        rows = here.scaled(here.decoder(k), k) / self._divisor(source, target)
        if self._is_twice(there):
            rows = rows + here.scaled(there.part("W_dec", 0, n_features, d_model), k)
        return rows

    def _bias(self, target: int) -> Tensor:
        coder = self.coders[target]
        own = coder.part("b_dec", 0, coder.d_model)
        if coder.coalesced in _COALESCED:
            return own
        total = own.double() * (2 if self._is_twice(coder) else 1)
        for source in self._sources(target)[:-1]:
            bias = self.coders[source].part("b_dec", target - source, coder.d_model)
            total = total + bias.double() / self._divisor(source, target)
        return total.to(torch.promote_types(own.dtype, torch.float32))

    def normalisation(self) -> Normalisation:
        """What normalize_io does, for every layer."""
        read = torch.tensor([[coder.norm("in_norm")] for coder in self.coders], dtype=torch.float64)
        write = torch.tensor([[1 / coder.norm("out_norm")] for coder in self.coders], dtype=torch.float64)
        zeros = torch.zeros(len(self.coders), 1)
        return Normalisation(read, zeros, write, zeros)

    def activation(self) -> Activation:
        """The one activation of all layers."""
        kinds = {self._activation(coder) for coder in self.coders}
        if len(kinds) > 1:
            folder = self.coders[0].config.path.parent.parent
            raise FileError(
                f"The layers in '{folder}' have different activations, {sorted(kinds)}: one serves all here."
            )
        kind, k = kinds.pop()
        details = {"name": "topk", "k": k, "relu": True} if kind == "topk" else {"name": "groupmax", "k": k}
        return build(details, [None] * len(self.coders), str(self.coders[0].config.path))

    def _activation(self, coder: _Coder) -> tuple[str, int]:
        config = coder.config
        kind = config.choice("activation", {"topk", "groupmax", "batchtopk"}, "topk")
        if kind == "batchtopk":
            raise config.error(
                "activation",
                "decided over a whole batch, and no threshold is stored: among other tokens other features are active",
            )
        if config.flag("topk_coalesced", False) and coder.coalesced != "none" and coder.n_targets > 1:
            raise config.error("topk_coalesced", JOINT)
        return kind, config.count("k", 32)


def _places(folder: Path, folders: list[Path]) -> tuple[str, str, str | None]:
    """Where the hookpoints read and write. What a coder reads is its module's input, or that of its hookpoint_in."""
    run = read_json(folder / _RUN) if (folder / _RUN).is_file() else Config(folder / _RUN, {})
    model_name = run.text("model")
    outs = [path.name if _number(path.name) is not None else path.parent.name for path in folders]
    ins = run.get("hookpoints_in", [])
    if not isinstance(ins, list) or not all(isinstance(name, str) for name in ins):
        raise run.error("hookpoints_in", "not a list of names")
    ins = [*ins, *outs[len(ins) :]][: len(outs)]
    reads = {read_point(name, "input", model_name, folder / _RUN) for name in ins}
    writes = {write_point(name, model_name, folder / _RUN) for name in outs}
    if len(reads) > 1 or len(writes) > 1:
        raise FileError(
            f"The hookpoints in '{folder}' read {sorted(reads)} and write {sorted(writes)}: one place each serves all."
        )
    return reads.pop(), writes.pop(), model_name


CLT_TRAINING = Format(
    "clt-training",
    choices,
    matching(_RUN, *(f"{at}/{name}" for at in ("*", "*/{}") for name in (_CONFIG, _WEIGHTS))),
    load,
)
