"""What a probe refuses, and what it warns of."""

from __future__ import annotations

import pytest
import torch
from probing import X, loss, value
from torch import nn

from nbutils import layers
from nbutils.diagnosis import frozen_batchnorm
from nbutils.networks import MLP
from nbutils.probes import measure


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off(off):
    net = MLP(1)
    with off():
        assert value(measure(net, X), "head", "activation_rms") > 0
        with pytest.raises(RuntimeError, match="gradients, and they are off here"):
            measure(net, X, loss)


def test_lazy_model():
    with pytest.raises(ValueError, match="run it once"):
        measure(nn.LazyLinear(3), X)


def test_a_batch_of_one_and_an_empty_one():
    net = MLP(1, norm="batch")
    with pytest.raises(ValueError, match="drop_last=True"):
        measure(net, X[:1])
    assert len(measure(net.eval(), X[:1])) > 0
    with pytest.raises(ValueError, match="empty"):
        measure(net, X[:0])


def test_no_watched_layer_ran():
    net = nn.Sequential(nn.Linear(64, 4), nn.BatchNorm1d(4))
    program = torch.export.export(net, (X,)).module()
    with pytest.raises(RuntimeError, match="none of the watched layers ran, from '0' on"):
        measure(program, X, layers=["0", "1"])


NORMS = {
    "LayerNorm": (lambda: nn.LayerNorm(1), (4, 3, 1), "its output is the shift"),
    "nbutils LayerNorm": (lambda: layers.LayerNorm(1), (4, 3, 1), "its output is the shift"),
    "RMSNorm": (lambda: nn.RMSNorm(1), (4, 3, 1), "with the sign of its input"),
    "nbutils RMSNorm": (lambda: layers.RMSNorm(1), (4, 3, 1), "with the sign of its input"),
    "GroupNorm": (lambda: nn.GroupNorm(6, 6), (4, 6), "one value per group"),
    "BatchNorm": (lambda: nn.BatchNorm1d(6), (2, 6), r"two values per channel.*in \(2, 6\)"),
    "one row": (lambda: nn.BatchNorm2d(6), (1, 6, 1, 2), "two values per channel"),
    "nbutils": (lambda: layers.BatchNorm(6), (2, 6), "two values per channel"),
}


@pytest.mark.parametrize("kind", NORMS)
def test_norms_with_too_few_values_are_warned_of_once(kind):
    build, shape, words = NORMS[kind]
    norm = build()
    net, x = nn.Sequential(norm, norm), torch.randn(shape)
    with pytest.warns(UserWarning, match=rf"^0 has .*{words}") as caught:
        measure(net, x)
    assert len(caught) == 1
    if "running_mean" in norm._buffers:  # it does not use the batch: no warning, which is an error
        with frozen_batchnorm(net):
            measure(net, x)
        measure(net.eval(), x)


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.LayerNorm(2), (4, 2)),
        (nn.GroupNorm(3, 6), (4, 6)),
        (nn.BatchNorm1d(6), (3, 6)),
        (layers.DyT(1), (4, 1)),
    ],
)
def test_norms_with_enough_values_are_not_warned_of(norm, shape):
    assert len(measure(norm, torch.randn(shape))) > 0  # warnings are errors


def test_a_negative_running_variance_in_use():
    net = nn.Sequential(nn.BatchNorm1d(64))
    net[0].running_var[3] = -0.5
    measure(net, X)
    with pytest.raises(ValueError, match=r"0 has a negative running variance, -0\.5"):
        measure(net.eval(), X)
