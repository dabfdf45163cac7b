"""Which features are on at which tokens, as a list, and the three products of a training step over that list alone.

With n entries of B·F, each product costs n·d_model instead of B·F·d_model. Bags of rows do most of it: a token's output
is a bag of decoder rows, and a feature's gradient is a bag of gradient rows.
"""

import warnings
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor


class Pattern:
    """Entries (token, feature) of a sparse matrix, sorted by token: values are given in this order."""

    def __init__(
        self, tokens: Int64[Tensor, " entry"], features: Int64[Tensor, " entry"], shape: tuple[int, int]
    ) -> None:
        self.tokens, self.features, self.shape = tokens, features, shape

    @cached_property
    def _token_starts(self) -> Int64[Tensor, " _"]:
        return _starts(self.tokens, self.shape[0])

    @cached_property
    def _feature_starts(self) -> Int64[Tensor, " _"]:
        return _starts(self.features, self.shape[1])

    @cached_property
    def _by_feature(self) -> Int64[Tensor, " entry"]:
        return torch.argsort(self.features, stable=True)

    @cached_property
    def _tokens_by_feature(self) -> Int64[Tensor, " entry"]:
        return self.tokens[self._by_feature]

    def where(self, kept: Bool[Tensor, " entry"]) -> "Pattern":
        """Some of the entries."""
        return Pattern(self.tokens[kept], self.features[kept], self.shape)

    def to_tokens(
        self, values: Float[Tensor, " entry"], rows: Float[Tensor, "feature d_model"]
    ) -> Float[Tensor, "token d_model"]:
        """values @ rows: for each token, the sum of its features' rows."""
        return F.embedding_bag(
            self.features, rows, self._token_starts, mode="sum", per_sample_weights=values, include_last_offset=True
        )

    def to_features(
        self, values: Float[Tensor, " entry"], rows: Float[Tensor, "token d_model"]
    ) -> Float[Tensor, "feature d_model"]:
        """valuesᵀ @ rows: for each feature, the sum of its tokens' rows."""
        return F.embedding_bag(
            self._tokens_by_feature,
            rows,
            self._feature_starts,
            mode="sum",
            per_sample_weights=values[self._by_feature],
            include_last_offset=True,
        )

    def inner(
        self, by_token: Float[Tensor, "token d_model"], by_feature: Float[Tensor, "feature d_model"]
    ) -> Float[Tensor, " entry"]:
        """⟨by_token[t], by_feature[i]⟩ at each entry (t, i), and nowhere else."""
        # Walked over is the longer side, looked up in the shorter one, which then stays in the cache.
        if len(by_token) >= len(by_feature):
            return _inner(self._token_starts, self.features, by_token, by_feature)
        found = torch.empty_like(self.tokens, dtype=by_token.dtype)
        found[self._by_feature] = _inner(self._feature_starts, self._tokens_by_feature, by_feature, by_token)
        return found


def _inner(
    starts: Int64[Tensor, " _"],
    columns: Int64[Tensor, " entry"],
    by_row: Float[Tensor, "row d_model"],
    by_column: Float[Tensor, "column d_model"],
) -> Float[Tensor, " entry"]:
    zeros = by_row.new_zeros(len(columns))
    with warnings.catch_warnings():
        # torch announces once that compressed sparse tensors are in beta.
        warnings.filterwarnings("ignore", message="Sparse CSR", category=UserWarning)
        entries = torch.sparse_csr_tensor(starts, columns, zeros, (len(by_row), len(by_column)), check_invariants=False)
    return torch.sparse.sampled_addmm(entries, by_row, by_column.T, beta=0.0).values()


def _starts(sorted_or_not: Int64[Tensor, " entry"], n: int) -> Int64[Tensor, " _"]:
    starts = sorted_or_not.new_zeros(n + 1)
    starts[1:] = torch.bincount(sorted_or_not, minlength=n).cumsum(0)
    return starts
