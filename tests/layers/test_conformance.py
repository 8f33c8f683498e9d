"""Every norm is PyTorch's: values, gradients, state, and any shape."""

from __future__ import annotations

import contextlib
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nbutils.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm, standardize
from tests.layers.cases import CASES, case, close, normal, pair
from tests.layers.checks import CHECKS, FEATURE_CHECKS

FEATURE_CASES = [one for one in CASES if one[0] in (LayerNorm, RMSNorm)]


@pytest.mark.parametrize(("kind", "args", "options", "shape"), FEATURE_CASES)
@pytest.mark.parametrize("check", FEATURE_CHECKS)
def test_norm_over_features(check, kind, args, options, shape):
    check(kind, args, options, shape)


@case
@pytest.mark.parametrize("check", CHECKS)
def test_norm(check, kind, args, options, shape):
    check(kind, args, options, shape)


# Any shape. In float64, so that the comparison is strict where the statistics are ill-conditioned.

sizes = st.integers(1, 5)


@settings(deadline=None, max_examples=60)
@given(st.lists(sizes, min_size=2, max_size=5), st.integers(0, 99), st.booleans())
def test_any_shape_with_channels(shape, seed, training):
    channels, positions = shape[1], shape[2:]
    x = 3 * normal(*shape, seed=seed, dtype=torch.float64) + 1
    counts = [g for g in range(1, channels + 1) if channels % g == 0 and x.numel() > g]
    kinds = [(GroupNorm, (groups, channels)) for groups in counts]
    if x.numel() > channels:
        kinds.append((BatchNorm, (channels,)))
    if torch.Size(positions).numel() > 1 and positions:
        kinds.append((InstanceNorm, (channels,)))
    for kind, args in kinds:
        ours, theirs = pair(kind, args, {}, shape, torch.float64)
        ours.train(training)
        theirs.train(training)
        one_element_groups = kind is GroupNorm and x.numel() == shape[0] * args[0]
        warned = pytest.warns(UserWarning, match="one value per group")
        with warned if one_element_groups else contextlib.nullcontext():
            y = ours(x)
        torch.testing.assert_close(y, theirs(x), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(sizes, min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 99))
def test_any_shape_with_features(shape, axes, seed):
    normalized = shape[-axes:]
    x = 3 * normal(*shape, seed=seed, dtype=torch.float64) + 1
    for kind in (LayerNorm, RMSNorm):
        ours, theirs = pair(kind, (normalized,), {}, shape, torch.float64)
        torch.testing.assert_close(ours(x), theirs(x), rtol=0, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(2, 5), min_size=1, max_size=4), st.data())
def test_standardize(shape, data):
    over = data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1))
    over = sorted(over)
    x = 3 * normal(*shape, dtype=torch.float64) + 1
    y, mean, var = standardize(x, over, eps=0.0)
    expected = torch.var_mean(x, over, correction=0, keepdim=True)
    torch.testing.assert_close((var, mean), expected)
    torch.testing.assert_close(y.mean(over), torch.zeros_like(y.mean(over)), rtol=0, atol=1e-9)
    torch.testing.assert_close(y.square().mean(over), torch.ones_like(y.mean(over)))
    y, mean, var = standardize(x, over, eps=0.5, center=False)
    assert mean.item() == 0
    torch.testing.assert_close(var, x.square().mean(over, keepdim=True))
    torch.testing.assert_close(y, x / (var + 0.5).sqrt())


def test_checkpoints_are_pytorchs():
    """A whole model's file, both ways."""
    theirs = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.GroupNorm(2, 6), nn.LayerNorm(6)
    )
    ours = nn.Sequential(nn.Conv2d(1, 6, 3), BatchNorm(6), GroupNorm(2, 6), LayerNorm(6))
    x = normal(2, 1, 8, 8)
    theirs(x)
    for source, target in ((theirs, ours), (ours, theirs)):
        file = io.BytesIO()
        torch.save(source.state_dict(), file)
        file.seek(0)
        target.load_state_dict(torch.load(file), strict=True)
        close(target.eval()(x), source.eval()(x), ulps=32)
