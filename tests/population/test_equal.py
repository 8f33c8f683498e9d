"""A population of known parts is M separate training loops: the same values and buffers."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.population.cases import IMAGES, OPTIMIZERS, VECTORS, check_equal, loop
from torch import nn

from nbutils import layers
from nbutils.networks import CNN, MLP, NORMS, RESIDUALS, Bias, Scale
from nbutils.population import Population, train
from nbutils.population.stacked import STACKED
from nbutils.transformer import PLACEMENTS, Transformer


def builds() -> list:
    return [
        (kind, data, residual, norm)
        for kind, data in ((MLP, VECTORS), (CNN, IMAGES))
        for residual in RESIDUALS
        for norm in NORMS
        if not (kind is MLP and norm == "instance") and not (residual == "fixup" and norm)
    ]


def ids(value: object) -> str | None:
    if isinstance(value, tuple):
        return "data"
    return getattr(value, "__name__", None)


@pytest.mark.parametrize(("kind", "data", "residual", "norm"), builds(), ids=ids)
def test_equals_the_loop(kind, data, residual, norm):
    nets = [kind(2, 16, residual=residual, norm=norm, init="he", seed=s) for s in range(3)]
    assert Population(nets, data.x_train).path == "stacked"
    check_equal(nets, data, steps=3, batch_size=16)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("norm", ["layer", "rms", "dyt", "derf", "batch", None])
def test_transformer_equals_the_loop(placement, norm):
    options = {"norm": norm, "placement": placement, "qk_norm": norm == "rms"}
    nets = [Transformer(2, 8, heads=2, seed=s, **options).double() for s in range(3)]
    assert Population(nets, VECTORS.x_train.double()).path == "stacked"
    check_equal(nets, VECTORS, steps=4, batch_size=16, tolerance=1e-9)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"clip": 0.5},
        {"clip": 1e3},
        {"clip": 0.5, "weight_decay": 0.1, "schedule": lambda step: 1 / (1 + step)},
        {"lr": [0.3, 0.003, 0.0]},
    ],
)
@pytest.mark.parametrize(("kind", "data"), [(MLP, VECTORS), (CNN, IMAGES)], ids=ids)
def test_optimizers_equal_pytorchs(kind, data, optimizer, options):
    # In float64: Adam divides rounding errors by themselves where the true gradient is 0.
    nets = [kind(2, 8, norm="layer", seed=s).double() for s in range(3)]
    options = {"lr": 0.01, **options}
    check_equal(nets, data, steps=4, batch_size=16, optimizer=optimizer, tolerance=1e-9, **options)


def test_deep_plain_batchnorm_equals_the_loop_for_a_step():
    """A longer comparison is hopeless, and one in float32 rough: these networks are chaotic."""
    nets = [MLP(30, norm="batch", init="he", seed=s).double() for s in range(3)]
    check_equal(nets, VECTORS, steps=1, batch_size=32, lr=1e-3, tolerance=1e-8)


def other_net(seed: int) -> nn.Module:
    """What `networks` does not build: torch.nn's norms, groups, strides, shared, frozen parts."""
    torch.manual_seed(seed)
    shared = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
    parts = [
        ("conv", nn.Conv2d(1, 8, 3, stride=2, dilation=2, padding=2)),
        ("batch", nn.BatchNorm2d(8, momentum=None)),
        ("shared1", shared),
        ("group", nn.GroupNorm(2, 8)),
        ("shared2", shared),
        ("instance", nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        ("layer", nn.LayerNorm((8, 4, 4), bias=False)),
        ("rms", nn.RMSNorm((8, 4, 4))),
        ("scale", Scale(1.5)),
        ("bias", Bias()),
        ("pool", nn.AvgPool2d(2)),
        ("flatten", nn.Flatten()),
        ("linear", nn.Linear(32, 16, bias=False)),
        ("batch1", nn.BatchNorm1d(16, affine=False)),
        ("batch2", layers.BatchNorm(16, track_running_stats=False)),
        ("rms1", nn.RMSNorm(16)),
        ("group1", nn.GroupNorm(2, 16, affine=False)),
        ("layer1", nn.LayerNorm(16, elementwise_affine=False)),
        ("again", nn.Flatten()),
        ("act", nn.SiLU()),
        ("head", nn.Linear(16, 10)),
    ]
    net = nn.Sequential()
    for name, part in parts:
        net.add_module(name, part)
    net.conv.weight.requires_grad_(False)
    net.batch1.eval()
    return net


def test_other_modules_equal_the_loop():
    nets = [other_net(seed).double() for seed in range(3)]
    frozen = [net.conv.weight.clone() for net in nets]
    check_equal(nets, IMAGES, steps=3, batch_size=16, tolerance=1e-9, weight_decay=0.01)
    for net, weight in zip(nets, frozen, strict=True):
        assert net.conv.weight.equal(weight)
        assert net.batch1.num_batches_tracked.item() == 0
        assert net.batch.num_batches_tracked.item() == 3


def test_one_layer_and_one_network():
    net = nn.Linear(64, 10)
    expected = copy.deepcopy(net)
    x, y = VECTORS.x_train, VECTORS.y_train
    loop(expected, x, y, steps=3, batch_size=8, lr=0.1, seed=1)
    train([net], x, y, steps=3, batch_size=8, lr=0.1, seeds=[1], progress=False)
    torch.testing.assert_close(net.weight, expected.weight)


def test_module_level_names():
    """Every stacked kind is tested above: a new one must be added there."""
    kinds = {type(module) for module in other_net(0).modules()}
    kinds |= {type(m) for n in NORMS for m in CNN(2, norm=n).modules()}
    kinds |= {type(m) for n in ("batch", "rms") for m in Transformer(1, norm=n).modules()}
    assert set(STACKED) <= kinds
