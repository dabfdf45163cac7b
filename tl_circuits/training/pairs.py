"""The units a transcoder trains in, and how what was trained in them is folded into the model's own."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tl_circuits.harvest import Pairs as Pairs
from tl_circuits.harvest import collect as collect
from tl_circuits.harvest import kept_tokens as kept_tokens
from tl_circuits.transcoder import Activation, CrossLayerTranscoder, JumpReLU


@dataclass(frozen=True)
class Normalisation:
    """Units in which every layer's inputs and outputs are centred and have E‖x‖² = d_model.

    A layer's mean squared error is then its fraction of variance unexplained: one λ and one learning rate serve all.
    """

    read_mean: Float[Tensor, "layer d_model"]
    read_scale: Float[Tensor, " layer"]
    write_mean: Float[Tensor, "layer d_model"]
    write_scale: Float[Tensor, " layer"]

    @classmethod
    def of(
        cls, reads: Float[Tensor, "layer token d_model"], writes: Float[Tensor, "layer token d_model"]
    ) -> "Normalisation":
        """The means and root mean squares of a sample. What never varies keeps its scale."""
        means = [side.mean(1) for side in (reads, writes)]
        scales = [
            (side - mean[:, None]).square().mean((1, 2)).sqrt()
            for side, mean in zip((reads, writes), means, strict=True)
        ]
        scales = [torch.where(scale > 0, scale, 1.0) for scale in scales]
        return cls(means[0], scales[0], means[1], scales[1])

    def normalise(self, pairs: Pairs) -> Pairs:
        """The same pairs in these units."""
        return Pairs(
            (pairs.reads - self.read_mean[:, None]) / self.read_scale[:, None, None],
            (pairs.writes - self.write_mean[:, None]) / self.write_scale[:, None, None],
            pairs.prompt,
        )

    def folded(self, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A transcoder's parameters, by name, for the model's own units: same activations, outputs scaled back.

        With x' = (x − m)/s the encoder is W/s and b − (W/s)·m, a decoder into layer t is multiplied by that layer's
        write scale, a skip also divided by its layer's read scale, and thresholds stay. Differentiable: training in the
        model's units can move parameters in these.
        """
        parameters = dict(named)
        b_dec = list(named["b_dec"] * self.write_scale[:, None] + self.write_mean)
        for layer in range(len(self.read_scale)):
            W_enc = named[f"W_enc.{layer}"] / self.read_scale[layer]
            written = self.write_scale[layer : layer + named[f"W_dec.{layer}"].shape[1]]
            parameters[f"W_enc.{layer}"] = W_enc
            parameters[f"b_enc.{layer}"] = named[f"b_enc.{layer}"] - W_enc @ self.read_mean[layer]
            parameters[f"W_dec.{layer}"] = named[f"W_dec.{layer}"] * written[:, None]
            if f"W_skip.{layer}" in named:
                skip = named[f"W_skip.{layer}"] * (self.write_scale[layer] / self.read_scale[layer])
                parameters[f"W_skip.{layer}"] = skip
                b_dec[layer] = b_dec[layer] - self.read_mean[layer] @ skip
        parameters["b_dec"] = torch.stack(b_dec)
        return parameters

    def fold(self, transcoder: CrossLayerTranscoder) -> CrossLayerTranscoder:
        """The transcoder as a new one, detached, that reads and writes the model's own units."""
        activation = transcoder.activation
        if isinstance(activation, JumpReLU):
            activation = JumpReLU(activation.threshold.detach().clone(), bandwidth=activation.bandwidth)
        return as_transcoder(
            self.folded(dict(transcoder.named_parameters())),
            activation,
            transcoder.read,
            transcoder.write,
            transcoder.model_name,
        )


def as_transcoder(
    named: Mapping[str, Tensor], activation: Activation, read: str, write: str, model_name: str | None
) -> CrossLayerTranscoder:
    """A transcoder with copies of these parameters, by the names that it has for them, thresholds apart."""
    of = {name: parameter.detach().clone() for name, parameter in named.items()}
    layers = range(len(of["b_dec"]))
    return CrossLayerTranscoder(
        [of[f"W_enc.{layer}"] for layer in layers],
        [of[f"b_enc.{layer}"] for layer in layers],
        [of[f"W_dec.{layer}"] for layer in layers],
        of["b_dec"],
        activation=activation,
        W_skip=[of[f"W_skip.{layer}"] for layer in layers] if "W_skip.0" in of else None,
        read=read,
        write=write,
        model_name=model_name,
    )
