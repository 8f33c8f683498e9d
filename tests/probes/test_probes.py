"""A probe measures what a reader would compute by hand."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pandas as pd
import pytest
import torch
from probing import X, Y, approx, loss, value
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nbutils.networks import MLP
from nbutils.probes import COLUMNS, measure, snapshot, updates


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


def test_half_precision_gradients_are_measured_in_float32():
    """Their norms lie above the largest number of float16, 65,504."""
    net = nn.Linear(2, 8, dtype=torch.float16)
    x = torch.ones(4, 2, dtype=torch.float16)
    table = measure(net, x, lambda out: (out * 10000).float().sum())
    assert value(table, "", "gradient_norm") == pytest.approx(10000 * math.sqrt(32), rel=1e-3)
    assert value(table, "", "gradient_rms") == pytest.approx(10000, rel=1e-3)
    norm = value(table, "", "weight_gradient_norm", output="weight")
    assert norm == pytest.approx(40000 * math.sqrt(16), rel=1e-3)


def test_gradient_profile_by_hand():
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4)))
    torch.manual_seed(1)
    table = measure(net, X, lambda out: (out * torch.randn_like(out)).sum())
    torch.manual_seed(1)
    h, passed = X, []
    for layer in net:
        h = layer(h)
        h.retain_grad()
        passed.append(h)
    h.backward(torch.randn_like(h))
    profile = table.query("metric == 'gradient_norm'").value.tolist()
    assert profile == pytest.approx([h.grad.double().norm().item() for h in passed], rel=1e-5)


class Diverges(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() / x.new_tensor([0.0, *[1.0] * 63])


def test_diverged_is_not_alive():
    """NaN and infinity: no dead fraction, and a column that says so, of gradients too."""
    net = nn.Sequential(nn.Linear(64, 64), Diverges(), nn.Linear(64, 10))
    table = measure(net, X, loss)
    assert math.isnan(value(table, "1", "dead_fraction"))
    assert value(table, "0", "dead_fraction") == 0
    finite = table[table.output == ""].groupby("layer").finite
    assert finite.all().to_dict() == {"0": False, "1": False, "2": False}
    assert finite.any().to_dict() == {"0": True, "1": False, "2": False}
    weight = table.query("output == 'weight' and layer == '2'").set_index("metric").finite
    assert weight.to_dict() == {"weight_norm": True, "weight_gradient_norm": False}
    assert table.finite.dtype == bool


def test_a_norm_that_overflows_is_of_finite_values():
    table = measure(nn.Identity(), torch.full((4, 2), 1e30))
    assert math.isinf(value(table, "", "activation_rms"))
    assert table.finite.all()


def test_updates_that_diverged():
    net = nn.Linear(2, 2)
    before = snapshot(net)
    with torch.no_grad():
        net.weight[0, 0] = float("nan")
    table = updates(net, before)
    finite = table[table.output == "weight"].set_index("metric").finite.to_dict()
    assert finite == {"weight_norm": True, "update_norm": False, "relative_update": False}
    assert table[table.output == "bias"].finite.all()


def test_several_calls_of_a_module_that_returns_a_tuple():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair = Returns(lambda x: (x, 2 * x))

        def forward(self, x: Tensor) -> Tensor:
            return self.pair(self.pair(x)[1])[1]

    table = measure(Twice(), X)
    rows = table[table.metric == "activation_rms"]
    assert list(zip(rows.call, rows.output, strict=True)) == [
        (0, "0"),
        (0, "1"),
        (1, "0"),
        (1, "1"),
    ]


def test_sparse_gradients():
    nets = [nn.Embedding(5, 3, sparse=sparse) for sparse in (True, False)]
    nets[1].load_state_dict(nets[0].state_dict())
    tokens = torch.tensor([[0, 1], [1, 4]])
    tables = [measure(net, tokens, lambda out: out.square().sum()) for net in nets]
    pd.testing.assert_frame_equal(*tables)


def test_keyword_inputs():
    net = nn.Bilinear(64, 64, 2)
    expected = measure(net, (X, X), lambda out: out.sum())
    table = measure(net, {"input1": X, "input2": X}, lambda out: out.sum())
    pd.testing.assert_frame_equal(table, expected)
    pd.testing.assert_frame_equal(measure(net, [X, X, Y], lambda out: out.sum()), expected)


def test_a_compiled_model_that_has_run():
    net = MLP(2, 16)
    compiled = torch.compile(net, backend="eager")
    compiled(X)
    table, expected = measure(compiled, X, loss), measure(net, X, loss)
    assert table.value.tolist() == expected.value.tolist()
    assert compiled(X).equal(net(X))


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


def test_batchnorm_is_measured_in_the_current_mode():
    net = nn.Sequential(nn.BatchNorm1d(64, affine=False))
    net(3 * X)
    assert value(measure(net, 5 * X), "0", "activation_rms") == pytest.approx(1.0, rel=1e-3)
    assert value(measure(net.eval(), 5 * X), "0", "activation_rms") > 3


# Errors.
