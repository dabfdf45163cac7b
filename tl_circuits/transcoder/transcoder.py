"""The one type for cross-layer and per-layer transcoders, with or without a linear skip."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from tl_circuits.errors import FitError
from tl_circuits.progress import stage
from tl_circuits.transcoder.activations import Activation, BatchTopK, ReLU


class CrossLayerTranscoder(nn.Module):
    """Replaces the MLPs of a model by sparse features that read one layer and write that layer and later ones.

        a^l = φ(W_enc[l] x^l + b_enc[l])
        ŷ^l = Σ_{s ≤ l} W_dec[s][:, l-s]ᵀ a^s + b_dec[l] (+ x^l @ W_skip[l])

    (Ameisen et al. 2025, "Building an Interpretable Replacement Model".) A per-layer transcoder is the one whose
    features write one layer (Dunefsky et al. 2024); a limited span lies between. Each argument that runs over layers
    may be one stacked tensor or a sequence of tensors, which may be memory-mapped: nothing is copied.

    - `W_enc` (layer, feature, d_model), `b_enc` (layer, feature): rows are features, at every layer.
    - `W_dec`: for each source layer (feature, layers written, d_model); a plain (feature, d_model) writes one layer.
    - `b_dec` (layer, d_model); `W_skip` (layer, d_model, d_model), added as `x @ W_skip[layer]`.
    - `shift`: for each source layer (feature, layers written), added to a feature's activation before that is decoded
      into the layer, wherever the activation is not 0 (a post-encoder; what is not active writes nothing). It shows in
      what a feature writes, never in its activation.
    - `read`, `write`: the hook points, inside a block, of x and of what ŷ replaces.
    - `processed_weights`: whether it was trained on a model with folded norms or centred writing weights. Public
      transcoders are not, and localizing refuses a read point that such processing has changed.
    - `model_name`: the model it was trained on, where known; another model's name is warned about.

    `source` says what it was loaded from: a release, a repository at its commit, a folder's name. Graphs keep it.

    Parameters do not require grad until asked (`.requires_grad_()`). Raises `FitError` for shapes that disagree, NaN or
    infinite encoders, biases, skips and shifts.
    """

    W_enc: nn.ParameterList
    b_enc: nn.ParameterList
    W_dec: nn.ParameterList
    W_skip: nn.ParameterList | None
    shift: nn.ParameterList | None
    source: str | None

    def __init__(
        self,
        W_enc: Tensor | Sequence[Tensor],
        b_enc: Tensor | Sequence[Tensor],
        W_dec: Tensor | Sequence[Tensor],
        b_dec: Tensor,
        *,
        activation: Activation | None = None,
        W_skip: Tensor | Sequence[Tensor] | None = None,
        shift: Tensor | Sequence[Tensor] | None = None,
        read: str = "hook_resid_mid",
        write: str = "hook_mlp_out",
        model_name: str | None = None,
        processed_weights: bool = False,
    ) -> None:
        super().__init__()
        self.W_enc = _frozen_list("W_enc", W_enc)
        self.b_enc = _frozen_list("b_enc", b_enc)
        self.W_dec = _frozen_list("W_dec", _by_layer_written("W_dec", W_dec, ndim=3))
        self.b_dec = nn.Parameter(_rows("b_dec", b_dec), requires_grad=False)
        self.W_skip = None if W_skip is None else _frozen_list("W_skip", W_skip)
        self.shift = None if shift is None else _frozen_list("shift", _by_layer_written("shift", shift, ndim=2))
        if not isinstance(activation, Activation | None):
            raise FitError(
                f"activation={activation!r} is no activation: give one such as tlc.ReLU() or tlc.JumpReLU(threshold)."
            )
        self.activation = ReLU() if activation is None else activation
        self.read, self.write, self.model_name = read, write, model_name
        self.processed_weights = processed_weights
        self.source = None
        self._check_shapes()
        self._check_numbers()
        # BatchTopK looks at whole batches while training: a transcoder is used far more often than it is trained.
        self.eval()

    @property
    def n_layers(self) -> int:
        """How many layers it reads and writes."""
        return len(self.W_enc)

    @property
    def d_model(self) -> int:
        """The width of what it reads and writes."""
        return self.b_dec.shape[1]

    @property
    def n_features(self) -> tuple[int, ...]:
        """The number of features of each layer."""
        return tuple(len(rows) for rows in self.W_enc)

    @property
    def span(self) -> int:
        """The most layers a feature writes: 1 for a per-layer transcoder, `n_layers` for a cross-layer one."""
        return max(rows.shape[1] for rows in self.W_dec)

    @property
    def is_per_layer(self) -> bool:
        """Whether every feature writes only the layer it reads."""
        return self.span == 1

    def extra_repr(self) -> str:
        kind = "per-layer" if self.is_per_layer else f"span={self.span}"
        skip = ", skip" if self.W_skip is not None else ""
        shift = ", shift" if self.shift is not None else ""
        return (
            f"layers={self.n_layers}, features={self.n_features}, d_model={self.d_model}, {kind}{skip}{shift}, "
            f"{self.read} -> {self.write}"
        )

    def preactivations(self, x: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch feature"]:
        """h = W_enc[layer] x + b_enc[layer], in the dtype and on the device of x."""
        return x @ self.W_enc[layer].to(x).T + self.b_enc[layer].to(x)

    def encode(self, x: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch feature"]:
        """a = φ(h) of one layer."""
        return self.activation(self.preactivations(x, layer), layer)

    def sources(self, layer: int) -> tuple[int, ...]:
        """The layers whose features write `layer`, lowest first."""
        return tuple(source for source in range(layer + 1) if source + self.W_dec[source].shape[1] > layer)

    def decode(self, activations: Sequence[Float[Tensor, "*batch _"]], layer: int) -> Float[Tensor, "*batch d_model"]:
        """ŷ of one layer without its skip, from the activations of layers 0…layer."""
        out = self.b_dec[layer].to(activations[layer])
        for source in self.sources(layer):
            outgoing = self.outgoing(activations[source], source, layer)
            out = out + outgoing @ self.W_dec[source][:, layer - source].to(outgoing)
        return out

    def outgoing(
        self,
        activations: Float[Tensor, "*batch feature"],
        source: int,
        layer: int,
        index: Int64[Tensor, " feature"] | None = None,
    ) -> Float[Tensor, "*batch feature"]:
        """What features of `source` multiply their decoders into `layer` by: a, or a + shift wherever a ≠ 0.

        `index` names the features that the activations are of; without it they are of all features in order.
        """
        if self.shift is None:
            return activations
        shift = self.shift[source][:, layer - source]
        shift = shift if index is None else shift[index.to(shift.device)]
        return torch.where(activations != 0, activations + shift.to(activations), activations)

    def skip(self, x: Float[Tensor, "*batch d_model"], layer: int) -> Float[Tensor, "*batch d_model"] | None:
        """The linear path x @ W_skip[layer], or None where there is none."""
        return None if self.W_skip is None else x @ self.W_skip[layer].to(x)

    def decoder_rows(self, source: int, index: Int64[Tensor, " active"]) -> Float[Tensor, "active written d_model"]:
        """The decoders of the named features of one layer, there and later. Of a mapped file only these rows are read.

        Raises `FitError` where a row holds NaN or infinity.
        """
        rows = self.W_dec[source][index.to(self.W_dec[source].device)]
        if not bool(rows.isfinite().all()):
            bad = index[~rows.flatten(1).isfinite().all(1)]
            raise FitError(
                f"W_dec[{source}] holds NaN or infinity in the rows of features {bad[:5].tolist()}: the file is "
                "damaged or the training diverged; load the transcoder again or repair these rows."
            )
        return rows

    def _check_shapes(self) -> None:
        n_layers, d_model = self.n_layers, self.d_model
        for name, parts in (
            ("b_enc", self.b_enc),
            ("W_dec", self.W_dec),
            ("b_dec", self.b_dec),
            ("W_skip", self.W_skip),
            ("shift", self.shift),
        ):
            if parts is not None and len(parts) != n_layers:
                raise FitError(
                    f"W_enc has {n_layers} layers and {name} has {len(parts)}: give both for every layer of the model."
                )
        for layer, (W_enc, b_enc, W_dec) in enumerate(zip(self.W_enc, self.b_enc, self.W_dec, strict=True)):
            n_features = len(W_enc)
            _expect(f"W_enc[{layer}]", W_enc, (n_features, d_model))
            _expect(f"b_enc[{layer}]", b_enc, (n_features,))
            written = W_dec.shape[1] if W_dec.ndim == 3 else -1
            _expect(f"W_dec[{layer}]", W_dec, (n_features, written, d_model))
            if not 1 <= written <= n_layers - layer:
                raise FitError(
                    f"W_dec[{layer}] writes {written} layers, but layer {layer} of {n_layers} can write 1 to "
                    f"{n_layers - layer}: column k of W_dec[s] writes layer s+k."
                )
        for layer, shift in enumerate(self.shift or ()):
            n_features, written, _ = self.W_dec[layer].shape
            if tuple(shift.shape) != (n_features, written):
                raise FitError(
                    f"shift[{layer}] has shape {tuple(shift.shape)}, but W_dec[{layer}] has {n_features} features that "
                    f"write {written} layers: give one number for each feature and layer written, "
                    f"{(n_features, written)}."
                )
        for layer, W_skip in enumerate(self.W_skip or ()):
            _expect(f"W_skip[{layer}]", W_skip, (d_model, d_model))
        threshold = getattr(self.activation, "threshold", None)
        if isinstance(self.activation, BatchTopK) and tuple(self.activation.threshold.shape) != (n_layers,):
            raise FitError(
                f"The BatchTopK threshold has shape {tuple(self.activation.threshold.shape)} for {n_layers} layers: "
                "give one number for each layer."
            )
        if (
            threshold is not None
            and threshold.ndim == 2
            and [len(threshold), *{*self.n_features}] != [n_layers, threshold.shape[1]]
        ):
            raise FitError(
                f"The threshold has shape {tuple(threshold.shape)}, but the encoder has {n_layers} layers of "
                f"{self.n_features} features: give one threshold for each feature."
            )

    def _check_numbers(self) -> None:
        named = [
            (f"{name}[{layer}]", part) for name in ("W_enc", "b_enc") for layer, part in enumerate(getattr(self, name))
        ]
        named += [("b_dec", self.b_dec)] + [(f"W_skip[{layer}]", part) for layer, part in enumerate(self.W_skip or ())]
        named += [(f"shift[{layer}]", part) for layer, part in enumerate(self.shift or ())]
        with stage("checking weights", len(named)) as bar:
            for name, part in named:
                # The extremes are NaN or infinite where any number is, and need no mask as large as the weights.
                if part.numel() and not bool(torch.stack(part.aminmax()).isfinite().all()):
                    raise FitError(
                        f"{name} holds {int((~part.isfinite()).sum())} NaN or infinite numbers of {part.numel()}: the "
                        "file is damaged or the training diverged."
                    )
                bar.update(1)


@contextmanager
def at_inference(transcoder: CrossLayerTranscoder) -> Iterator[None]:
    """Inside, activations are those of inference, whatever mode the transcoder is in."""
    training = [module for module in transcoder.modules() if module.training]
    transcoder.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _tensors(name: str, given: Tensor | Sequence[Tensor]) -> list[Tensor]:
    parts = list(given) if isinstance(given, Tensor | Sequence | nn.ParameterList) and len(given) else []
    if not parts or not all(isinstance(part, Tensor) and part.ndim for part in parts):
        raise FitError(
            f"{name} is {type(given).__name__} {given!r:.60}: give a tensor with a row for each layer, or a sequence "
            "of one tensor for each (torch.from_numpy takes arrays)."
        )
    return parts


def _by_layer_written(name: str, given: Tensor | Sequence[Tensor], *, ndim: int) -> list[Tensor]:
    return [rows.unsqueeze(1) if rows.ndim == ndim - 1 else rows for rows in _tensors(name, given)]


def _rows(name: str, given: Tensor | Sequence[Tensor]) -> Float[Tensor, "layer d_model"]:
    rows = _tensors(name, given)
    shapes = {tuple(row.shape) for row in rows}
    if len(shapes) != 1 or rows[0].ndim != 1:
        raise FitError(f"{name} has rows of shapes {sorted(shapes)}: give one of d_model numbers for each layer.")
    return given if isinstance(given, Tensor) else torch.stack(rows)


def _frozen_list(name: str, given: Tensor | Sequence[Tensor]) -> nn.ParameterList:
    parts = _tensors(name, given)
    for part in parts:
        if not part.is_floating_point():
            raise FitError(f"{name} has dtype {part.dtype}: give floating point weights.")
    return nn.ParameterList([nn.Parameter(part, requires_grad=False) for part in parts])


def _expect(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if not tensor.is_floating_point():
        raise FitError(f"{name} has dtype {tensor.dtype}: give floating point weights.")
    if tuple(tensor.shape) != shape:
        raise FitError(
            f"{name} has shape {tuple(tensor.shape)}, but {shape} was expected: rows are features, and W_enc, b_dec "
            "and W_dec share one d_model. Transpose it if it is stored the other way round."
        )
