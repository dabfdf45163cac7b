"""Weights that are laid out once: what is given again is what laying out anew would give."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tl_circuits.replacement.layouts import LaidOutOnce

WEIGHTS = nn.Parameter(torch.arange(24.0).view(2, 3, 4))


def views() -> list[Tensor]:
    """Views that differ in where they begin, in their strides or in their shapes, and in no more than one of these."""
    return [
        WEIGHTS[0],
        WEIGHTS[1],
        WEIGHTS[0, :, :2],
        WEIGHTS[0, :, ::2],
        WEIGHTS[:, 0, :2],
        WEIGHTS.transpose(0, 2),
        WEIGHTS[0].T,
        WEIGHTS[0, :2].T,
    ]


def laid_out(view: Tensor) -> list[Tensor]:
    """A view in several layouts."""
    shapes = ((-1,), (1, -1), (view.shape[1], view.shape[0], -1))
    return [view.contiguous(), *(view.reshape(shape) for shape in shapes)]


@given(st.permutations(range(8)))
def test_whatever_was_laid_out_before_a_view_is_laid_out_as_itself(order: list[int]) -> None:
    plain = [laid_out(view) for view in views()]
    with LaidOutOnce():
        for number in [*order, *order]:
            for one, expected in zip(laid_out(views()[number]), plain[number], strict=True):
                assert torch.equal(one, expected)


def test_parameters_of_equal_shapes_are_told_apart() -> None:
    one, other = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.zeros(3, 4))
    with LaidOutOnce():
        assert float(one.T.reshape(-1).detach().sum()) == 12
        assert float(other.T.reshape(-1).detach().sum()) == 0


def test_what_is_no_parameter_is_laid_out_anew() -> None:
    values = torch.ones(3, 4)
    with LaidOutOnce():
        assert float(values.T.reshape(-1).sum()) == 12
        values.zero_()
        assert float(values.T.reshape(-1).sum()) == 0


def test_a_layout_carries_its_gradient_to_the_parameter() -> None:
    weights = nn.Parameter(torch.ones(3, 4))
    with LaidOutOnce():
        for times in (1.0, 2.0):
            (times * weights.T.reshape(-1)).sum().backward()
    assert weights.grad is not None
    assert float(weights.grad.sum()) == 36


def test_what_is_asked_by_name_is_part_of_what_is_asked() -> None:
    weights = nn.Parameter(torch.zeros(2, 3, 4, 5))
    with LaidOutOnce():
        assert (
            weights.transpose(0, 1).reshape(shape=(6, 20)).shape != weights.transpose(0, 1).reshape(shape=(20, 6)).shape
        )
        plain, last = (
            weights.transpose(0, 1).contiguous(memory_format=how)
            for how in (torch.contiguous_format, torch.channels_last)
        )
        assert plain.stride() != last.stride()
