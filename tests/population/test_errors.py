"""Networks and data that do not fit are refused with a sentence, before anything is trained."""

from __future__ import annotations

import pytest
from tests.population.cases import IMAGES, SEEDS, VECTORS, run, small
from torch import nn

from nbutils import layers
from nbutils.networks import MLP
from nbutils.population import evaluate, train


def hooked() -> nn.Module:
    net = MLP(1)
    net.head.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: [], ValueError, "at least one network"),
        (lambda: [MLP(1), "net"], TypeError, "nn.Module, got str at 1"),
        (
            lambda: [MLP(1), MLP(2)],
            ValueError,
            r"alike.*depth=1.*depth=2.*Train them in separate",
        ),
        (lambda: [MLP(1), MLP(1, 16)], ValueError, "width=32.*network 1.*width=16"),
        (lambda: [MLP(1), MLP(1, activation="tanh")], ValueError, "ReLU.*Tanh"),
        (lambda: [MLP(1), MLP(1).eval()], ValueError, "train mode.*eval mode"),
        (lambda: [MLP(1), MLP(1).double()], ValueError, "float32.*float64"),
        (
            lambda: [MLP(1, residual="scaled"), MLP(1, residual="identity")][:1] * 2,
            ValueError,
            "share",
        ),
        (lambda: [MLP(4, residual="scaled"), MLP(4, residual="identity")], ValueError, "scaled.*identity"),
        (lambda: [hooked()], TypeError, "'head' has forward hooks"),
        (lambda: [nn.Sequential(nn.Linear(64, 10), nn.Flatten(0))], ValueError, r"got \(50,\)"),
        (lambda: [MLP(1).requires_grad_(False)], ValueError, "no parameter that requires"),
    ],
)
def test_network_errors(make, error, words):
    with pytest.raises(error, match=words):
        run(make())


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"optimizer": "adamw"}, ValueError, "unknown optimizer 'adamw'; known: 'sgd'"),
        ({"lr": [0.1, 0.2]}, ValueError, "lr needs one value per network, 3, got 2"),
        ({"seeds": [1]}, ValueError, "seeds needs one value per network, 3, got 1"),
        ({"tags": [{}]}, ValueError, "tags needs one value per network"),
        ({"tags": [{"loss": 1}] * 3}, ValueError, r"tags must not be named \['loss'\]"),
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"batch_size": 10**6}, ValueError, "batch_size"),
        ({"steps": -1}, ValueError, "steps"),
    ],
)
def test_argument_errors_come_before_training(options, error, words):
    nets = small()
    with pytest.raises(error, match=words):
        run(nets, **options)
    for net, fresh in zip(nets, small(), strict=True):
        assert net.head.weight.equal(fresh.head.weight)


def test_data_errors():
    x, y = VECTORS.x_train, VECTORS.y_train
    options = {"steps": 1, "batch_size": 8, "lr": 0.1, "seeds": SEEDS, "progress": False}
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):  # the network's own sentence
        train(small(), x.view(-1, 8, 8), y, **options)
    with pytest.raises(ValueError, match=r"y of shape \(N,\).*\(7,\)"):
        evaluate(small(), x, y[:7])
    with pytest.raises(TypeError, match="float32, and x is"):
        train(small(), x.double(), y, **options)
    with pytest.raises(TypeError, match="int64 class labels, got"):
        train(small(), x, y.float(), **options)
    nets = [nn.Sequential(nn.Linear(64, 8), layers.InstanceNorm(8)) for _ in SEEDS]
    with pytest.raises(ValueError, match="InstanceNorm"):
        train(nets, x, y, **options)
    with pytest.raises(ValueError, match=r"must return \(batch, outputs\)"):
        train([nn.Sequential(nn.Conv2d(1, 1, 3)) for _ in SEEDS], *IMAGES[:2], **options)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        train(small(norm="batch"), x, y, **{**options, "batch_size": 1})


def test_cumulative_average_needs_equal_counts():
    nets = [nn.Sequential(nn.BatchNorm1d(64, momentum=None), nn.Linear(64, 10)) for _ in SEEDS]
    nets[1](VECTORS.x_train)
    with pytest.raises(ValueError, match=r"different numbers of batches: \[0, 1, 0\]"):
        run(nets)


def test_parameter_without_gradient():
    nets = [nn.Sequential(nn.Linear(64, 10), nn.Identity()) for _ in SEEDS]
    for net in nets:
        net[1] = nn.Sequential()
        net[1].add_module("unused", nn.Linear(4, 4))
        net[1].forward = lambda x: x
    with pytest.raises(ValueError, match=r"does not depend on the parameter '1.unused.weight'"):
        run(nets)
