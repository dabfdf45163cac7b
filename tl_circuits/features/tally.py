"""What is counted of one layer's features while the stream goes by. Its size does not depend on the stream's."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from tl_circuits.features.card import Histogram
from tl_circuits.features.kept import Kept, Offer, Seen, Window, lowest

BINS = 64
"""Of each sign. The largest activation lies in the upper half of them."""


class Counts:
    """Histograms whose range doubles when an activation leaves it, so that they are exact whatever comes.

    A bin is 2^(e-6) wide where the largest |activation| so far is below 2^e: bins of a smaller range are halves of
    these, so that what was counted in them can be added up.
    """

    def __init__(self, n_features: int, device: torch.device) -> None:
        self.exponent = torch.full((n_features,), -1000, device=device)
        self.count = torch.zeros(n_features, 2, BINS, dtype=torch.int64, device=device)

    def add(self, feature: Int64[Tensor, " active"], value: Float[Tensor, " active"]) -> None:
        """Counts activations, none of them 0, of these features."""
        largest = torch.zeros_like(self.exponent, dtype=value.dtype)
        largest.scatter_reduce_(0, feature, value.abs(), "amax")
        grown = torch.where(largest > 0, torch.frexp(largest).exponent, -1000).maximum(self.exponent)
        self._widen(grown)
        place = torch.ldexp(value.abs(), (BINS.bit_length() - 1) - self.exponent[feature]).to(torch.int64)
        flat = (feature * 2 + (value < 0)) * BINS + place
        self.count += flat.bincount(minlength=self.count.numel()).view_as(self.count)

    def _widen(self, grown: Int64[Tensor, " feature"]) -> None:
        rows = ((grown > self.exponent) & self.count.any(-1).any(-1)).nonzero()[:, 0]
        if len(rows):
            by = (grown - self.exponent)[rows].clamp_max(BINS.bit_length())
            place = torch.arange(BINS, device=rows.device) >> by[:, None]
            old = self.count[rows]
            self.count[rows] = torch.zeros_like(old).scatter_add_(2, place[:, None].expand_as(old), old)
        self.exponent = grown

    def histogram(self, row: int) -> Histogram | None:
        """That of one feature, from its lowest bin that is not empty, or from 0, to its highest one."""
        positive, negative = self.count[row].tolist()
        while positive and not positive[-1]:
            positive.pop()
        while negative and not negative[-1]:
            negative.pop()
        if not positive and not negative:
            return None
        width = 2.0 ** (int(self.exponent[row]) - (BINS.bit_length() - 1))
        counts = tuple(map(float, (*reversed(negative), *positive)))
        return Histogram(-width * len(negative) or 0.0, width * len(positive), counts)


class Tally:
    """One layer's features: on how many tokens each is active, how strongly, and its examples.

    `top` keeps the prompts with the highest peaks, `sample` tokens drawn at random from all on which a feature is
    active: those of the highest keys, which are random numbers that a feature and a token's place in the stream give.
    """

    def __init__(
        self, layer: int, index: Int64[Tensor, " feature"], top: int, sample: int, window: Window, seed: int
    ) -> None:
        n, device = len(index), index.device
        self.layer, self.index = layer, index
        self.n_active = torch.zeros(n, dtype=torch.int64, device=device)
        self.maximum = torch.full((n,), float("-inf"), device=device)
        self.counts = Counts(n, device)
        self.top = Kept(n, top, window, torch.float32, device)
        self.sample = Kept(n, sample, window, torch.int64, device)
        self._seed = seed

    def add(self, seen: Seen, columns: slice, place: Int64[Tensor, "prompt pos"]) -> None:
        """Counts one pass at the features of these columns. `place` are the tokens' places in the stream."""
        prompt, pos, feature = seen.activations.nonzero(as_tuple=True)
        value = seen.activations[prompt, pos, feature].float()
        row = feature + columns.start
        self.n_active += row.bincount(minlength=len(self.index))
        self.counts.add(row, value)
        self.maximum.scatter_reduce_(0, row, value, "amax")
        if self.top.score.shape[1]:
            self.top.take(self._peaks(seen), seen, columns)
        if self.sample.score.shape[1]:
            drawn = keys(self._seed, self.layer, self.index[row], place[prompt, pos])
            hopeful = drawn > self.sample.worst[row]
            offer = self._drawn(feature[hopeful], drawn[hopeful], prompt[hopeful], pos[hopeful], columns)
            self.sample.take(offer, seen, columns)

    def _peaks(self, seen: Seen) -> Offer:
        active = seen.activations.float().masked_fill(seen.activations == 0, lowest(torch.float32))
        score, pos = (part.T for part in active.max(1))
        # Most prompts have nothing to offer to most features.
        size = min(self.top.score.shape[1], score.shape[1])
        best = score.sort(dim=1, descending=True, stable=True)
        prompt = best.indices[:, :size]
        return Offer(best.values[:, :size], prompt, pos.gather(1, prompt))

    def _drawn(self, feature: Tensor, drawn: Tensor, prompt: Tensor, pos: Tensor, columns: slice) -> Offer:
        order = drawn.argsort(descending=True)
        order = order[feature[order].argsort(stable=True)]
        feature = feature[order]
        counts = feature.bincount(minlength=columns.stop - columns.start)
        rank = torch.arange(len(feature), device=feature.device) - (counts.cumsum(0) - counts)[feature]
        size = min(self.sample.score.shape[1], int(counts.max()) if len(feature) else 0)
        few = rank < size
        score = torch.full((len(counts), size), lowest(torch.int64), dtype=torch.int64, device=feature.device)
        prompts, places = torch.zeros_like(score), torch.zeros_like(score)
        for filled, of in ((score, drawn), (prompts, prompt), (places, pos)):
            filled[feature[few], rank[few]] = of[order][few]
        return Offer(score, prompts, places)

    @staticmethod
    def bytes_per_feature(top: int, sample: int, window: Window) -> int:
        """What a feature takes, however long the stream is."""
        example = window.width * (4 + 4) + 8
        return top * (example + 4) + sample * (example + 8) + 2 * BINS * 8 + 3 * 8 + 4


def keys(seed: int, layer: int, index: Int64[Tensor, " n"], place: Int64[Tensor, " n"]) -> Int64[Tensor, " n"]:
    """A random number from 0 to 2^62 for each feature and place in the stream: the same ones for the same seed.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
    """
    start = (seed * 1_000_003 + layer) * 2685821657736338717 % 2**64 - 2**63
    mixed = index * -7046029254386353131 + place * -4417276706812531889 + start
    mixed = (mixed ^ _shifted(mixed, 30)) * -4658895280553007687
    mixed = (mixed ^ _shifted(mixed, 27)) * -7723592293110705685
    return _shifted(mixed ^ _shifted(mixed, 31), 2)


def _shifted(bits: Int64[Tensor, " n"], by: int) -> Int64[Tensor, " n"]:
    return (bits >> by) & ((1 << (64 - by)) - 1)
