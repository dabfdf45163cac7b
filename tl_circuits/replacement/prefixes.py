"""How to cut a prompt into prefixes, each with a pass of its own, so that rows walk little further than they must."""

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

PASS, PASS_POSITION = 6e7, 2.0
"""What a pass costs, in rows that walk through it at one position: so much over d_model² (calls, and weights laid out
anew), and so much more for each position. Measured on a model of GPT-2-small's shape."""
MOST = 16
"""Passes at most: each leaves its activations in memory."""


def cheapest_lengths(work: Float64[Tensor, " pos"], d_model: int, most_positions: int) -> list[int]:
    """The lengths of the prefixes, rising, without the whole prompt: those that cost least, rows and passes together.

    `work` is how many rows start at each position, each counted by the share of the layers that it walks through; a row
    walks through the shortest prefix that holds its position. All prefixes together have no more than `most_positions`.
    """
    price = 1.0
    while (
        len(lengths := _cheapest(work, price * PASS / d_model**2, price * PASS_POSITION)) > MOST
        or sum(lengths) > most_positions
    ):
        price *= 2
    return lengths


def _cheapest(work: Float64[Tensor, " pos"], each: float, per_position: float) -> list[int]:
    """By dynamic programming: the best way to cover the first n positions ends in some prefix of length n."""
    n_pos = len(work)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), work.cumsum(0)])
    cost, came_from = torch.zeros(n_pos + 1, dtype=torch.float64), torch.zeros(n_pos + 1, dtype=torch.int64)
    for length in range(1, n_pos + 1):
        ways = cost[:length] + (below[length] - below[:length]) * length
        came_from[length] = ways.argmin()
        cost[length] = ways.min() + (each + per_position * length if length < n_pos else 0.0)
    return _back(came_from)


def _back(came_from: Int64[Tensor, " length"]) -> list[int]:
    lengths, length = [], int(came_from[-1])
    while length > 0:
        lengths.append(length)
        length = int(came_from[length])
    return lengths[::-1]
