"""Networks that the fast path does not know train as alone, or are refused."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrize import register_parametrization

from nbutils import layers
from nbutils.networks import MLP
from nbutils.population import Population, train
from nbutils.weights import SpectralNorm, WeightNorm, WeightStandardization
from tests.population.cases import IMAGES, SEEDS, VECTORS, check_equal, loop


class Reader(nn.Module):
    """Two layers and, between them, what a reader writes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def between(self, h: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.between(self.body(x))))


class BatchByHand(Reader):
    def between(self, h: Tensor) -> Tensor:
        return (h - h.mean(0)) / h.std(0)


class Centred(Reader):
    def between(self, h: Tensor) -> Tensor:
        return h - h.mean(1, keepdim=True)


class Standardized(Reader):
    def between(self, h: Tensor) -> Tensor:
        return layers.standardize(h, [0], 1e-5)[0]


class Softmax(Reader):
    def between(self, h: Tensor) -> Tensor:
        return functional.softmax(h, dim=1)


class Normalized(Reader):
    def between(self, h: Tensor) -> Tensor:
        return functional.normalize(h)


class Dense(Reader):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(32, 10)

    def between(self, h: Tensor) -> Tensor:
        return torch.cat([h, -h], 1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRU(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x.unflatten(1, (8, 8)))[0][:, -1])


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.unflatten(1, (8, 8))).mean(1))


class OwnNorm(nn.Module):
    """A reader's BatchNorm with a memory of its own, written with a rebound buffer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))
        self.register_buffer("memory", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.memory = 0.9 * self.memory + 0.1 * x.detach().var(0)
        return self.gain * x / (self.memory + 1e-5).sqrt()


class Subclass(nn.LayerNorm):
    """Looks like a LayerNorm and may compute anything."""


class OwnParameter(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 10))
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.temperature * super().forward(x)


def weighted(norm: type) -> nn.Module:
    layer = nn.Linear(64, 16)
    given = (layer.weight,) if norm is SpectralNorm else ()
    register_parametrization(layer, "weight", norm(*given))
    return nn.Sequential(layer, nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))


def between(*parts: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(64, 16), *parts, nn.Linear(16, 10))


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 64), nn.Linear(64, 10))
    net[2].weight = net[0].weight
    return net


NETWORKS = {
    "tied": (tied, VECTORS),
    "by hand, mean(0)": (BatchByHand, VECTORS),
    "mean(1)": (Centred, VECTORS),
    "standardize": (Standardized, VECTORS),
    "softmax": (Softmax, VECTORS),
    "normalize": (Normalized, VECTORS),
    "cat": (Dense, VECTORS),
    "encoder layer": (Encoder, VECTORS),
    "own norm": (lambda: between(OwnNorm(16), nn.ReLU()), VECTORS),
    "subclass": (lambda: between(Subclass(16)), VECTORS),
    "own parameter": (OwnParameter, VECTORS),
    "PReLU": (lambda: between(nn.PReLU()), VECTORS),
    "glu on maps": (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 3), nn.GLU(1), nn.Flatten(), nn.Linear(144, 10)),
        IMAGES,
    ),
    "LocalResponseNorm": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.LocalResponseNorm(3), nn.Flatten(), nn.Linear(144, 10)
        ),
        IMAGES,
    ),
    "Conv1d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (8, 8)), nn.Conv1d(8, 4, 3), nn.Flatten(), nn.Linear(24, 10)
        ),
        VECTORS,
    ),
    "Linear on images": (
        lambda: nn.Sequential(nn.Linear(8, 5), nn.Flatten(), nn.Linear(40, 10)),
        IMAGES,
    ),
    "reflect": (
        lambda: nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect"), nn.Flatten(), nn.Linear(128, 10)
        ),
        IMAGES,
    ),
    "norm as a function": (lambda: MLP(2, 16, norm=OwnNorm), VECTORS),
}


def alike(build: object, count: int = 3) -> list[nn.Module]:
    nets = []
    for seed in SEEDS[:count]:
        torch.manual_seed(seed)
        net = build().double()
        for parameter in net.parameters():  # networks that draw from a seed of their own, too
            nn.init.normal_(parameter, parameter.detach().mean().item(), 0.2)
        nets.append(net)
    return nets


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_trains_as_alone(name):
    build, data = NETWORKS[name]
    nets = alike(build)
    assert Population(nets, data.x_train.double()).path == "mapped"
    check_equal(nets, data, steps=4, batch_size=16, lr=0.02, tolerance=1e-10)


@pytest.mark.parametrize("norm", [WeightNorm, WeightStandardization, SpectralNorm])
def test_norms_of_weights_train_as_alone(norm):
    nets = alike(lambda: weighted(norm))
    assert Population(nets, VECTORS.x_train.double()).path == "mapped"
    check_equal(nets, VECTORS, steps=4, batch_size=16, lr=0.02, tolerance=1e-10)


def test_what_cannot_be_mapped_runs_in_a_loop_and_says_so_once():
    with pytest.warns(UserWarning, match="Recurrent cannot be mapped.*one after the other"):
        nets = alike(Recurrent)
        assert Population(nets, VECTORS.x_train.double()).path == "looped"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_equal(nets, VECTORS, steps=3, batch_size=16, lr=0.05, tolerance=1e-10)


def test_dropout_differs_between_networks_and_leaves_the_generator():
    nets = alike(lambda: between(nn.Dropout(0.5)), 1) * 1
    twins = [nets[0], *(copy.deepcopy(nets[0]) for _ in range(2))]
    options = {"steps": 2, "batch_size": 16, "lr": 0.1, "seeds": [1, 1, 1], "progress": False}
    state = torch.get_rng_state()
    again = copy.deepcopy(twins)
    for each in (twins, again):
        train(each, VECTORS.x_train.double(), VECTORS.y_train, **options)
    assert torch.get_rng_state().equal(state)
    assert not twins[0][0].weight.equal(twins[1][0].weight)
    assert twins[1][0].weight.equal(again[1][0].weight)


class Noisy(Reader):
    def between(self, h: Tensor) -> Tensor:
        return functional.dropout(h, 0.5, self.training)


def test_functional_dropout_is_mapped():
    """Nobody can check the fast path against a network that draws in its forward."""
    assert Population(alike(Noisy), VECTORS.x_train.double()).path == "mapped"


# Refused.


class Hidden(Reader):
    """Layers that PyTorch does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = [nn.Linear(16, 16).double()]

    def between(self, h: Tensor) -> Tensor:
        return self.hidden[0](h)


class Scaled(Reader):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale

    def between(self, h: Tensor) -> Tensor:
        return self.scale * h


def test_layers_in_a_plain_list_are_refused():
    with pytest.raises(ValueError, match="Hidden gives other logits.*nn.ModuleList"):
        Population(alike(Hidden), VECTORS.x_train.double())


@pytest.mark.parametrize("scales", [(3.0, -1.0), (torch.ones(1), torch.zeros(1)), ("a", "b")])
def test_plain_attributes_that_differ_are_refused(scales):
    nets = [Scaled(scale) for scale in scales]
    with pytest.raises(ValueError, match="alike but for their values.*scale="):
        Population(nets, VECTORS.x_train)


def test_the_fast_path_is_held_against_a_container_of_known_parts(monkeypatch):
    """A container whose forward the fast path happens to compute goes fast, another does not."""

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.body(x)

    assert Population(alike(Twice), VECTORS.x_train.double()).path == "stacked"
    monkeypatch.setattr("nbutils.population.stacked._Linear.forward", lambda self, x: x[..., :10])
    assert Population(alike(Twice), VECTORS.x_train.double()).path == "mapped"


def test_a_single_network_of_the_reader():
    net, alone = alike(Softmax, 1)[0], alike(Softmax, 1)[0]
    x, y = VECTORS.x_train.double(), VECTORS.y_train
    loop(alone, x, y, steps=3, batch_size=8, lr=0.1, seed=1)
    train([net], x, y, steps=3, batch_size=8, lr=0.1, seeds=[1], progress=False)
    torch.testing.assert_close(net.head.weight, alone.head.weight, rtol=0, atol=1e-12)
