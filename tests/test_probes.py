"""A probe measures what a reader would compute by hand, and leaves no trace."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from nbutils.networks import CNN, MLP
from nbutils.probes import COLUMNS, measure, snapshot, updates

X = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8)


def loss(logits: Tensor) -> Tensor:
    return functional.cross_entropy(logits, Y)


def value(table, layer, metric, call=0, output="") -> float:
    chosen = (table.layer == layer) & (table.metric == metric)
    chosen &= (table.call == call) & (table.output == output)
    assert chosen.sum() == 1, (layer, metric, call, output)
    return table[chosen].value.item()


def approx(tensor: Tensor) -> object:
    return pytest.approx(tensor.item(), rel=1e-5)


# What it measures.


def test_every_metric_by_hand():
    net = MLP(2, 16)
    with torch.no_grad():
        net.layers[0].linear.bias[:5] = -10.0  # dead from the start
    table = measure(net, X, loss)
    linear, relu = net.layers[0].linear, net.layers[0].activation
    h = linear(X)
    a = relu(h)
    logits = net.head(net.layers[1](a))
    gradient_h, gradient_weight = torch.autograd.grad(loss(logits), [h, linear.weight])
    assert list(table) == COLUMNS
    assert value(table, "layers.0.linear", "activation_rms") == approx(h.square().mean().sqrt())
    assert value(table, "layers.0.linear", "activation_mean") == approx(h.mean())
    assert value(table, "layers.0.linear", "gradient_norm") == approx(gradient_h.norm())
    rms = gradient_h.square().mean().sqrt()
    assert value(table, "layers.0.linear", "gradient_rms") == approx(rms)
    dead = (a == 0).all(0).float().mean()
    assert dead.item() == 5 / 16
    assert value(table, "layers.0.activation", "dead_fraction") == approx(dead)
    assert value(table, "layers.0.linear", "dead_fraction") == 0
    weight = {"layer": "layers.0.linear", "output": "weight"}
    assert value(table, metric="weight_norm", **weight) == approx(linear.weight.norm())
    assert value(table, metric="weight_gradient_norm", **weight) == approx(gradient_weight.norm())


def test_rows_follow_the_forward_pass():
    table = measure(MLP(2, 16, norm="layer"), X)
    activations = table[table.metric == "activation_rms"]
    names = ["linear", "norm", "activation"]
    expected = [f"layers.{i}.{name}" for i in range(2) for name in names]
    assert activations.layer.tolist() == [*expected, "head"]
    assert activations.kind.tolist() == ["Linear", "LayerNorm", "ReLU"] * 2 + ["Linear"]
    assert set(table.metric) == {
        "activation_rms",
        "activation_mean",
        "dead_fraction",
        "weight_norm",
    }
    assert not table.duplicated(["layer", "call", "output", "metric"]).any()


def test_chosen_layers():
    net = MLP(2, 16)
    table = measure(net, X, loss, layers=["layers.1", "head"])
    assert table.layer.unique().tolist() == ["layers.1", "head"]
    assert table[table.layer == "layers.1"].kind.unique().tolist() == ["Sequential"]
    with pytest.raises(ValueError, match=r"no layer 'layers.9'; it has '', 'layers'"):
        measure(net, X, layers=["layers.9"])
    with pytest.raises(TypeError, match="list of names, got the string 'head'"):
        measure(net, X, layers="head")


class Shared(nn.Module):
    """One Linear, used three times; one that is never called; no gradient for the last."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.unused = nn.Linear(64, 64), nn.Linear(64, 64)
        self.off = nn.Linear(64, 64).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = self.linear(x)
        return x + self.off(X)


def test_shared_unused_and_frozen_modules():
    table = measure(Shared(), X, loss)
    calls = table[(table.layer == "linear") & (table.metric == "gradient_norm")].call
    assert calls.tolist() == [0, 1, 2]
    unused = table[table.layer == "unused"]
    assert unused.metric.unique().tolist() == ["weight_norm"]
    assert "gradient_norm" not in set(table[table.layer == "off"].metric)
    assert value(table, "off", "activation_rms") > 0


@dataclass
class Left:
    """A type that the probe does not look into."""

    hidden: Tensor


class Returns(nn.Module):
    def __init__(self, make: object) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor) -> object:
        return self.make(x)


def test_outputs_that_are_not_tensors():
    parts = Returns(lambda x: {"a": x, "b": (x * 2, [x * 3, None, 5]), "labels": x.argmax(1)})
    table = measure(parts, X)
    assert table.output.unique().tolist() == ["a", "b.0", "b.1.0"]
    assert value(table, "", "activation_rms", output="b.1.0") == approx(
        3 * X.square().mean().sqrt()
    )
    assert len(measure(Returns(Left), X)) == 0
    assert len(measure(Returns(lambda x: None), X)) == 0
    net = nn.LSTM(64, 8)
    table = measure(net, X, lambda out: out[1][0].sum())
    assert table[table.kind == "LSTM"].output.unique().tolist()[:3] == ["0", "1.0", "1.1"]
    assert value(table, "", "gradient_norm", output="1.0") == pytest.approx(math.sqrt(8))


def test_scalar_and_tuple_of_inputs():
    table = measure(Returns(lambda x: x.sum()), X)
    assert "dead_fraction" not in set(table.metric)
    table = measure(nn.Bilinear(64, 64, 2), (X, X), lambda out: out.sum())
    assert value(table, "", "activation_rms") > 0


def test_activations_in_place():
    """The Linear's output as it was returned, and the gradient with respect to that."""
    plain = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    changed = copy.deepcopy(plain)
    changed[1] = nn.ReLU(inplace=True)
    expected, table = measure(plain, X, loss), measure(changed, X, loss)
    assert table.value.tolist() == pytest.approx(expected.value.tolist())
    assert value(table, "0", "activation_mean") != value(table, "1", "activation_mean")


def test_checkpointed_forward_is_counted_once():
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return checkpoint(self.linear, x, use_reentrant=False)

    table = measure(Checkpointed(), X, loss)
    assert table.call.unique().tolist() == [0]


def test_half_precision_is_measured_in_float32():
    table = measure(nn.Identity(), torch.full((4, 2), 300.0, dtype=torch.float16))
    assert value(table, "", "activation_rms") == 300.0


def test_input_that_requires_a_gradient():
    x = X.clone().requires_grad_()
    net = nn.Linear(64, 10).requires_grad_(False)
    assert value(measure(net, x, loss), "", "gradient_norm") > 0
    assert x.grad is None


def test_updates():
    net = nn.Linear(2, 2)
    nn.init.constant_(net.weight, 2.0)
    nn.init.zeros_(net.bias)
    before = snapshot(net)
    with torch.no_grad():
        net.weight.add_(0.5)
    table = updates(net, before)
    assert list(table) == COLUMNS
    assert value(table, "", "weight_norm", output="weight") == 4.0
    assert value(table, "", "update_norm", output="weight") == 1.0
    assert value(table, "", "relative_update", output="weight") == 0.25
    assert math.isnan(value(table, "", "relative_update", output="bias"))
    with pytest.raises(ValueError, match="other parameters than the model"):
        updates(nn.Linear(2, 3), before)
    names = updates(MLP(1), snapshot(MLP(1, seed=1))).layer.unique().tolist()
    assert names == ["layers.0.linear", "head"]


# What it leaves behind: nothing.


class Trace:
    """Everything of a model that a probe could change."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.before = self.read()
        self.values = [t.clone() for t in self.tensors()]
        self.state = torch.get_rng_state()

    def tensors(self) -> list[Tensor]:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        return [*self.model.parameters(), *self.model.buffers(), *gradients]

    def read(self) -> list:
        modules = [
            (m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in self.model.modules()
        ]
        names = [list(m._buffers) for m in self.model.modules()]
        # Identity and version: not even written to and restored.
        return [modules, names, [(id(t), t._version) for t in self.tensors()]]

    def check(self) -> None:
        assert self.read() == self.before
        for tensor, expected in zip(self.tensors(), self.values, strict=True):
            assert tensor.equal(expected)
        assert torch.get_rng_state().equal(self.state)


class Raises(nn.Module):
    """Raises in the forward or the backward pass."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def forward(self, x: Tensor) -> Tensor:
        if self.where == "forward":
            raise RuntimeError("planted")
        if self.where == "backward":
            x = x.clone()
            x.register_hook(self.backward)
        return x

    def backward(self, gradient: Tensor) -> Tensor:
        raise RuntimeError("planted")


class Restless(nn.Module):
    """Switches itself to eval mode, replaces one buffer and registers one more at every call."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("empty", None)

    def forward(self, x: Tensor) -> Tensor:
        self.eval()
        self.seen = self.seen + 1
        self.register_buffer(f"another{len(self._buffers)}", torch.ones(()))
        return x


def eventful(last: nn.Module) -> nn.Module:
    net = nn.Sequential(
        nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Dropout(), Restless(), nn.Linear(16, 10), last
    )
    net(X)
    net.train()
    net[1].eval()
    for p in net[0].parameters():
        p.grad = torch.ones_like(p)
    net[4].register_forward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize("with_loss", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_no_trace(with_loss, training):
    net = eventful(nn.Identity()).train(training)
    trace = Trace(net)
    table = measure(net, X, loss if with_loss else None)
    trace.check()
    assert ("gradient_norm" in set(table.metric)) == with_loss
    assert measure(net, X, loss if with_loss else None).equals(table)  # the same dropout masks


@pytest.mark.parametrize("where", ["forward", "backward", "loss"])
def test_no_trace_after_an_exception(where):
    net = nn.Sequential(MLP(1, norm="batch"), nn.Dropout())
    raising = nn.Sequential(net, Raises(where))

    def planted(logits: Tensor) -> Tensor:
        if where == "loss":
            raise RuntimeError("planted")
        return loss(logits)

    trace = Trace(raising)
    with pytest.raises(RuntimeError, match="planted"):
        measure(raising, X, planted)
    trace.check()


def test_the_model_trains_on_as_if_nothing_happened():
    """Also in the middle of a step, between forward and backward."""
    nets = [CNN(2, norm="batch", seed=1) for _ in range(2)]
    images = X.view(8, 1, 8, 8)
    for index, net in enumerate(nets):
        outcome = loss(net(images))
        if index == 0:
            measure(net, images, loss)
        outcome.backward()
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert one.grad.equal(other.grad)
    assert nets[0].layers[0].norm.num_batches_tracked.item() == 1


def test_batchnorm_is_measured_in_the_current_mode():
    net = nn.Sequential(nn.BatchNorm1d(64, affine=False))
    net(3 * X)
    assert value(measure(net, 5 * X), "0", "activation_rms") == pytest.approx(1.0, rel=1e-3)
    assert value(measure(net.eval(), 5 * X), "0", "activation_rms") > 3


# Errors.


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_gradients_switched_off(off):
    net = MLP(1)
    with off():
        assert value(measure(net, X), "head", "activation_rms") > 0
        with pytest.raises(RuntimeError, match="gradients, and they are off here"):
            measure(net, X, loss)


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda out: out, ValueError, r"one element, got shape \(8, 10\)"),
        (lambda out: out.sum().item(), ValueError, "one element, got float"),
        (lambda out: out.detach().sum(), RuntimeError, "frozen, or the output detached"),
    ],
)
def test_losses_that_cannot_work(function, error, words):
    net = MLP(1, norm="batch")
    trace = Trace(net)
    with pytest.raises(error, match=words):
        measure(net, X, function)
    trace.check()


def test_lazy_model():
    with pytest.raises(ValueError, match="run it once"):
        measure(nn.LazyLinear(3), X)
