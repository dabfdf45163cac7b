"""A label without anybody's help: the token that a feature's examples have in common, and what stands before it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from tl_circuits.features.card import Example

LEAST = 0.3
"""The F1 below which the examples are held to share nothing."""


@dataclass(frozen=True)
class Sign:
    """A token, with the one before it or one anywhere before it where that tells more.

    `precision` is the share of the tokens like it in the examples on which the feature is active, `recall` the share of
    the tokens on which it is active that are like it.
    """

    token: str | None
    before: str | None
    near: bool
    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """The harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def __str__(self) -> str:
        said = "" if self.token is None else f'"{self.token.strip() or self.token}"'
        where = "" if self.before is None else f'{"right after" if self.near else "after"} "{self.before.strip()}"'
        return f"{' '.join(part for part in (said, where) if part)}, {self.precision:.0%} of the time"


def shared_tokens(examples: Sequence[Example]) -> str | None:
    """What the examples share, as a label: `"las" right after "Dal", 95% of the time`; None where that is nothing.

    Of all tokens on which the feature is active in them, and those tokens with what stands right before or somewhere
    before them, the one is named that tells best (by F1) where in the examples the feature is active. The percentage is
    its precision there; what the feature does elsewhere is not looked at.
    """
    best = best_sign(examples)
    return None if best is None or best.f1 < LEAST else str(best)


def best_sign(examples: Sequence[Example]) -> Sign | None:
    """The sign with the highest F1; of equals the simplest, and the one that comes first."""
    signs = list(_signs(examples))
    return max(signs, key=lambda sign: sign.f1) if signs else None


def _signs(examples: Sequence[Example]) -> Iterator[Sign]:
    peaks = [(example.tokens, example.peak) for example in examples]
    tokens = dict.fromkeys(said[at] for said, at in peaks)
    for token in tokens:
        yield _measured(examples, token, None, False, lambda said, at, token=token: said[at] == token)
    pairs = dict.fromkeys((said[at - 1], said[at]) for said, at in peaks if at)
    for before, token in pairs:
        yield _measured(
            examples, token, before, True,
            lambda said, at, token=token, before=before: said[at] == token and at > 0 and said[at - 1] == before,
        )  # fmt: skip
    for token, before in _distant(peaks):
        yield _measured(
            examples, token, before, False,
            lambda said, at, token=token, before=before: said[at] == token and before in said[:at],
        )  # fmt: skip


def _distant(peaks: Sequence[tuple[tuple[str, ...], int]]) -> Iterator[tuple[str, str]]:
    """Tokens that stand somewhere before the same peak in at least a third of the examples."""
    counts: dict[tuple[str, str], int] = {}
    for said, at in peaks:
        for before in set(said[:at]):
            counts[said[at], before] = counts.get((said[at], before), 0) + 1
    often = sorted(pair for pair, count in counts.items() if 3 * count >= len(peaks))
    return iter(often)


def _measured(
    examples: Sequence[Example],
    token: str | None,
    before: str | None,
    near: bool,
    holds: Callable[[tuple[str, ...], int], bool],
) -> Sign:
    like = active = both = 0
    for example in examples:
        for at, value in enumerate(example.activations):
            is_like = holds(example.tokens, at)
            like += is_like
            active += value != 0
            both += is_like and value != 0
    return Sign(token, before, near, both / like if like else 0.0, both / active if active else 0.0)
