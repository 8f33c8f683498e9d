"""A probe leaves no trace in the model, also after an exception."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from probing import X, loss
from torch import Tensor, nn

from nbutils.networks import CNN, MLP
from nbutils.probes import measure


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


def test_shared_buffers_stay_shared_inside():
    class Reads(nn.Module):
        """Writes one buffer and reads another, which is the same."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(64), nn.BatchNorm1d(64).eval()
            self.second.running_mean = self.first.running_mean

        def forward(self, x: Tensor) -> Tensor:
            assert self.first.running_mean is self.second.running_mean
            return self.second(self.first(x))

    net = Reads()
    trace = Trace(net)
    measure(net, X + 5)
    trace.check()
    assert net.first.running_mean is net.second.running_mean


def test_more_randomness_hooks_and_a_backward_pass_inside():
    class Wild(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(64, 10)
            self.generator = torch.Generator().manual_seed(3)

        def forward(self, x: Tensor) -> Tensor:
            torch.rand(3, generator=self.generator)
            random.random()
            np.random.rand()  # noqa: NPY002
            self.register_forward_hook(lambda *_: None)
            out = self.linear(x)
            with torch.enable_grad():
                self.linear(x).sum().backward()
            self.linear.bias.grad += 1
            return out

    def read() -> tuple:
        numpy = np.random.get_state()[2]  # noqa: NPY002
        return random.getstate(), numpy, net.generator.get_state().tolist()

    net = Wild()
    net.linear.bias.grad = torch.ones(10)
    trace, before = Trace(net), read()
    measure(net, X, loss)
    trace.check()
    assert read() == before
    assert net.linear.weight.grad is None
