"""Errors say what was expected, what came, and what to do."""

import pytest
import torch
from torch import nn

from nbutils.layers import BatchNorm, Derf, DyT, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from tests.layers.cases import normal


def test_groupnorm_needs_two_values():
    x = normal(1, 5, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel") as theirs:
        nn.GroupNorm(5, 5)(x)
    with pytest.raises(ValueError, match="more than 1 value per channel") as ours:
        GroupNorm(5, 5)(x)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("tracked", [True, False])
def test_instancenorm_needs_two_positions(tracked):
    x = normal(4, 5, 1)
    with pytest.raises(ValueError, match="more than 1 spatial element") as theirs:
        nn.InstanceNorm1d(5, track_running_stats=tracked)(x)
    with pytest.raises(ValueError, match="more than 1 spatial element") as ours:
        InstanceNorm(5, track_running_stats=tracked)(x)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize(
    ("make", "x", "error", "words"),
    [
        (lambda: BatchNorm(5), normal(5), ValueError, r"\(N, C\).*got \(5,\)"),
        (lambda: BatchNorm(5), normal(2, 5, 1, 1, 1, 1), ValueError, r"got \(2, 5, 1, 1, 1, 1\)"),
        (lambda: BatchNorm(5), normal(2, 4), ValueError, "built for 5 channels and got 4.*axis 1"),
        (
            lambda: BatchNorm(5),
            normal(2, 5).double(),
            TypeError,
            r"float64 input.*x.to\(torch.float32",
        ),
        (lambda: BatchNorm(5).double(), normal(2, 5), TypeError, "float64 parameters"),
        (lambda: BatchNorm(5), torch.ones(2, 5).long(), TypeError, r"got torch.int64.*x.float\(\)"),
        (lambda: BatchNorm(5), [[1.0] * 5], TypeError, "expects a tensor, got list"),
        (lambda: InstanceNorm(5), normal(2, 5), ValueError, r"\(N, C, L\)"),
        (lambda: InstanceNorm(5), normal(2, 4, 3), ValueError, "built for 5 channels and got 4"),
        (lambda: GroupNorm(2, 6), normal(2, 5, 3), ValueError, "built for 6 channels and got 5"),
        (lambda: GroupNorm(2, 6), normal(6), ValueError, r"got \(6,\)"),
        (
            lambda: LayerNorm(6),
            normal(2, 5),
            ValueError,
            r"last 1 axes are \(6,\), got shape \(2, 5\)",
        ),
        (lambda: LayerNorm((2, 6)), normal(6), ValueError, r"last 2 axes are \(2, 6\)"),
        (lambda: LayerNorm(6, eps=None), normal(2, 6), TypeError, "LayerNorm needs a number.*None"),
        (lambda: RMSNorm(6), normal(2, 5), ValueError, "RMSNorm expects"),
        (lambda: RMSNorm(6), torch.ones(2, 6).int(), TypeError, "floating point"),
        (lambda: DyT(6), normal(2, 5), ValueError, r"DyT expects.*\(6,\), got shape \(2, 5\)"),
        (lambda: Derf(6), normal(2, 6).double(), TypeError, "Derf has torch.float32 parameters"),
        (lambda: GroupNorm(4, 6), None, ValueError, r"\(6\) must be divisible by num_groups \(4\)"),
        (lambda: GroupNorm(0, 6), None, ValueError, "num_groups must be at least 1, got 0"),
        (lambda: BatchNorm(0), None, ValueError, "num_features must be at least 1"),
        (lambda: BatchNorm(2.5), None, TypeError, "num_features must be an int, got 2.5"),
        (lambda: LayerNorm(()), None, ValueError, "at least one axis"),
        (lambda: LayerNorm((3, -1)), None, ValueError, "at least 1, got -1"),
    ],
)
def test_errors(make, x, error, words):
    with pytest.raises(error, match=words):
        make()(x)
