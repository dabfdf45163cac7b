"""What a model's MLPs read and write on some prompts, aligned token by token, and the units a transcoder trains in."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from tl_circuits.errors import PromptError
from tl_circuits.sites import Model, Sites, installed
from tl_circuits.transcoder import CrossLayerTranscoder, JumpReLU


@dataclass(frozen=True)
class Pairs:
    """MLP inputs and outputs of every kept token, and the prompt that each token is of."""

    reads: Float[Tensor, "layer token d_model"]
    writes: Float[Tensor, "layer token d_model"]
    prompt: Int64[Tensor, " token"]


def kept_tokens(tokens: Int64[Tensor, "prompt pos"], tokenizer) -> Bool[Tensor, "prompt pos"]:
    """All tokens but the beginning-of-sequence tokens a prompt starts with and the padding it ends in.

    The first token attends only to itself and is an outlier in every model; replacement models leave it alone too.
    """
    bos, pad = getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "pad_token_id", None)
    kept = torch.ones_like(tokens, dtype=torch.bool)
    if bos is not None:
        kept &= ~(tokens == bos).cumprod(-1).bool()
    if pad is not None:
        kept &= ~(tokens == pad).flip(-1).cumprod(-1).bool().flip(-1)
    return kept


@torch.no_grad()
def collect(
    model: Model, tokens: Int64[Tensor, "prompt pos"], kept: Bool[Tensor, "prompt pos"], read: str, write: str
) -> Pairs:
    """Runs the model over the prompts and keeps what its MLPs read and write at the kept tokens."""
    if not bool(kept.any()):
        raise PromptError(
            f"None of the {tokens.numel()} tokens is left to train on: all are padding or beginnings of sequence."
        )
    sites = Sites.of(model, read, write).sites
    reads: list[list[Tensor]] = [[] for _ in sites]
    writes: list[list[Tensor]] = [[] for _ in sites]
    for rows, keep in zip(tokens.split(1024), kept.split(1024), strict=True):
        functions = {site.read: _append(reads[site.layer], keep) for site in sites}
        functions |= {site.write: _append(writes[site.layer], keep) for site in sites}
        with installed(model, functions):
            model(rows)
    stacked = [torch.stack([torch.cat(parts) for parts in side]) for side in (reads, writes)]
    return Pairs(*stacked, prompt=kept.nonzero()[:, 0])


def _append(parts: list[Tensor], keep: Tensor) -> Callable[[Tensor], None]:
    return lambda x: parts.append(x[keep].float())


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
        """The means and root mean squares of a sample."""
        means = [side.mean(1) for side in (reads, writes)]
        scales = [
            (side - mean[:, None]).square().mean((1, 2)).sqrt()
            for side, mean in zip((reads, writes), means, strict=True)
        ]
        return cls(means[0], scales[0], means[1], scales[1])

    def normalise(self, pairs: Pairs) -> Pairs:
        """The same pairs in these units."""
        return Pairs(
            (pairs.reads - self.read_mean[:, None]) / self.read_scale[:, None, None],
            (pairs.writes - self.write_mean[:, None]) / self.write_scale[:, None, None],
            pairs.prompt,
        )

    def folded(self, transcoder: CrossLayerTranscoder) -> dict[str, Tensor]:
        """A transcoder's parameters, by name, for the model's own units: same activations, outputs scaled back.

        With x' = (x − m)/s the encoder is W/s and b − (W/s)·m, a decoder into layer t is multiplied by that layer's
        write scale, and thresholds stay. Differentiable: training in the model's units can move parameters in these.
        """
        parameters: dict[str, Tensor] = {**dict(transcoder.named_parameters())}
        for layer in range(transcoder.n_layers):
            W_enc = transcoder.W_enc[layer] / self.read_scale[layer]
            written = self.write_scale[layer : layer + transcoder.W_dec[layer].shape[1]]
            parameters[f"W_enc.{layer}"] = W_enc
            parameters[f"b_enc.{layer}"] = transcoder.b_enc[layer] - W_enc @ self.read_mean[layer]
            parameters[f"W_dec.{layer}"] = transcoder.W_dec[layer] * written[:, None]
        parameters["b_dec"] = transcoder.b_dec * self.write_scale[:, None] + self.write_mean
        return parameters

    def fold(self, transcoder: CrossLayerTranscoder) -> CrossLayerTranscoder:
        """The transcoder as a new one, detached, that reads and writes the model's own units."""
        of = {name: parameter.detach().clone() for name, parameter in self.folded(transcoder).items()}
        layers = range(transcoder.n_layers)
        activation = transcoder.activation
        assert isinstance(activation, JumpReLU)
        return CrossLayerTranscoder(
            torch.stack([of[f"W_enc.{layer}"] for layer in layers]),
            torch.stack([of[f"b_enc.{layer}"] for layer in layers]),
            [of[f"W_dec.{layer}"] for layer in layers],
            of["b_dec"],
            activation=JumpReLU(of["activation.threshold"], bandwidth=activation.bandwidth),
            read=transcoder.read,
            write=transcoder.write,
            model_name=transcoder.model_name,
        )
