"""A population is M separate training loops: the same values, buffers and errors."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nbutils import layers, population
from nbutils.data import digits, minibatches
from nbutils.networks import CNN, MLP, NORMS, RESIDUALS, Bias, Scale
from nbutils.transformer import PLACEMENTS, Transformer
from nbutils.population import Population, evaluate, train

VECTORS = digits()
IMAGES = digits(images=True)
SEEDS = [11, 12, 13]
OPTIMIZERS = {
    "sgd": lambda parameters, lr, decay: torch.optim.SGD(parameters, lr, weight_decay=decay),
    "momentum": lambda parameters, lr, decay: torch.optim.SGD(
        parameters, lr, momentum=0.9, weight_decay=decay
    ),
    "adam": lambda parameters, lr, decay: torch.optim.Adam(parameters, lr, weight_decay=decay),
}


def loop(
    net,
    x,
    y,
    *,
    steps,
    batch_size,
    lr,
    seed,
    optimizer="sgd",
    schedule=None,
    weight_decay=0.0,
    clip=None,
) -> list[tuple[int, float, float]]:
    """One network, as every tutorial trains it. Returns (step, loss, accuracy)."""
    optimize = OPTIMIZERS[optimizer](net.parameters(), lr, weight_decay)
    recorded = []
    for step, batch in enumerate(minibatches(len(x), batch_size, steps, seed)):
        logits = net(x[batch])
        loss = functional.cross_entropy(logits, y[batch])
        recorded.append((step, loss.item(), (logits.argmax(1) == y[batch]).float().mean().item()))
        optimize.zero_grad()
        loss.backward()
        if clip is not None:
            nn.utils.clip_grad_norm_(net.parameters(), clip)
        optimize.param_groups[0]["lr"] = lr * (1.0 if schedule is None else schedule(step))
        optimize.step()
        net.zero_grad()
    return recorded


def check_equal(nets, data, *, tolerance=1e-5, lr=0.05, **options) -> None:
    """Train copies in a loop and as a population: records, states, evaluation must agree."""
    rates = lr if isinstance(lr, list) else [lr] * len(nets)
    seeds = SEEDS[: len(nets)]
    looped = copy.deepcopy(nets)
    x, y = data.x_train.to(nets[0].head.weight.dtype), data.y_train
    expected = [
        loop(net, x, y, lr=rate, seed=seed, **options)
        for net, rate, seed in zip(looped, rates, seeds, strict=True)
    ]
    records = train(nets, x, y, lr=lr, seeds=seeds, every=1, progress=False, **options)
    rows = [(m, *row) for m, rows in enumerate(expected) for row in rows]
    values = records[["network", "step", "loss", "accuracy"]].to_numpy(dtype=float)
    np.testing.assert_allclose(values, np.array(rows), rtol=0, atol=tolerance)
    for net, other in zip(nets, looped, strict=True):
        for name, tensor in other.state_dict().items():
            torch.testing.assert_close(
                net.state_dict()[name],
                tensor,
                rtol=0,
                atol=tolerance,
                msg=lambda m, n=name: f"{n}: {m}",
            )
    check_evaluates(nets, looped, data)


def check_evaluates(nets, looped, data) -> None:
    x, y = data.x_test[:200].to(nets[0].head.weight.dtype), data.y_test[:200]
    for mode in (True, False):
        table = evaluate(nets, x, y, train_mode=mode)
        for net, row in zip(looped, table.itertuples(), strict=True):
            with torch.no_grad():
                logits = copy.deepcopy(net).train(mode)(x)
            assert row.loss == pytest.approx(functional.cross_entropy(logits, y).item(), abs=1e-4)
            expected = (logits.argmax(1) == y).float().mean().item()
            assert row.accuracy == pytest.approx(expected, abs=2.1 / len(y))


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
    check_equal(nets, data, steps=3, batch_size=16)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("norm", ["layer", "rms", "dyt", "derf", "batch", None])
def test_transformer_equals_the_loop(placement, norm):
    options = {"norm": norm, "placement": placement, "qk_norm": norm == "rms"}
    nets = [Transformer(2, 8, heads=2, seed=s, **options).double() for s in range(3)]
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


# What a call returns, and what it leaves behind.


def small(count: int = 3, **options) -> list[nn.Module]:
    return [MLP(1, 8, seed=s, **options) for s in range(count)]


def run(nets, **options) -> object:
    defaults = {
        "steps": 3,
        "batch_size": 8,
        "lr": 0.1,
        "seeds": SEEDS[: len(nets)],
        "progress": False,
    }
    return train(nets, VECTORS.x_train, VECTORS.y_train, **{**defaults, **options})


def test_records():
    tags = [{"init": "he", "width": w} for w in (1, 2, 3)]
    records = run(small(), steps=8, every=3, tags=tags)
    assert list(records) == ["network", "step", "loss", "accuracy", "init", "width"]
    assert records.step.tolist() == [0, 3, 6, 7] * 3
    assert records.network.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert records.width.tolist() == [1] * 4 + [2] * 4 + [3] * 4
    assert records.index.is_unique
    assert run(small(), steps=250).step.unique().tolist() == [*range(0, 250, 2), 249]
    empty = run(small(), steps=0, tags=tags)
    assert list(empty) == list(records)
    assert len(empty) == 0


def test_evaluate_table():
    table = evaluate(small(), VECTORS.x_test, VECTORS.y_test, tags=[{"a": m} for m in "xyz"])
    assert list(table) == ["network", "loss", "accuracy", "a"]
    assert table.a.tolist() == ["x", "y", "z"]


def test_evaluate_leaves_no_trace():
    nets = small(norm="batch")
    nets[1].requires_grad_(True)
    before = copy.deepcopy([net.state_dict() for net in nets])
    for mode in (True, False):
        evaluate(nets, VECTORS.x_test, VECTORS.y_test, train_mode=mode)
    for net, state in zip(nets, before, strict=True):
        assert net.training
        for name, tensor in net.state_dict().items():
            assert tensor.equal(state[name])


def test_every_network_has_its_own_minibatches():
    twins = [MLP(1, 8, seed=0) for _ in range(3)]
    records = run(twins, seeds=[1, 2, 1], steps=2, every=1)
    first, second, third = (records[records.network == m].loss.tolist() for m in range(3))
    assert first == third
    assert first != second


def test_objects_generator_and_gradients_stay():
    nets = small(norm="batch")
    parameters = [list(net.parameters()) for net in nets]
    for p in parameters[0]:
        p.grad = torch.ones_like(p)
    kept = [p.grad for p in parameters[0]]
    state = torch.get_rng_state()
    run(nets)
    assert torch.get_rng_state().equal(state)
    for net, before in zip(nets, parameters, strict=True):
        assert all(a is b for a, b in zip(net.parameters(), before, strict=True))
        assert all(p.is_leaf and p.requires_grad for p in net.parameters())
        assert all(p.untyped_storage().nbytes() == p.nbytes for p in net.parameters())
    for p, grad in zip(parameters[0], kept, strict=True):
        assert p.grad is grad
        assert grad.equal(torch.ones_like(p))


def test_modes():
    trained, frozen = small(norm="batch"), small(norm="batch")
    evaluated = [net.eval() for net in small(norm="batch")]
    for net in frozen:
        net.layers[0].norm.eval()
    for nets in (trained, frozen, evaluated):
        modes = [module.training for net in nets for module in net.modules()]
        run(nets)
        assert modes == [module.training for net in nets for module in net.modules()]
    assert trained[0].layers[0].norm.num_batches_tracked.item() == 3
    assert frozen[0].layers[0].norm.num_batches_tracked.item() == 0
    assert evaluated[0].layers[0].norm.num_batches_tracked.item() == 3
    assert evaluated[0].head.weight.equal(trained[0].head.weight)
    assert not frozen[0].head.weight.equal(trained[0].head.weight)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_what_was_reached_is_written_back(error):
    def schedule(step: int) -> float:
        if step == 2:
            raise error
        return 1.0

    nets, expected = small(), small()
    with pytest.raises(error):
        run(nets, steps=5, schedule=schedule)
    run(expected, steps=5, schedule=lambda step: float(step < 2))
    for net, other in zip(nets, expected, strict=True):
        assert net.head.weight.equal(other.head.weight)


@pytest.mark.parametrize("kind", [MLP, CNN])
@pytest.mark.parametrize("norm", ["batch", "layer", "rms", "group"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_network_that_diverges_stays_alone(kind, norm, optimizer):
    data = VECTORS if kind is MLP else IMAGES
    runs = []
    for rate in (1e-3, float("inf")):
        nets = [kind(2, 8, norm=norm, seed=s) for s in range(3)]
        options = {"steps": 4, "batch_size": 8, "seeds": SEEDS, "optimizer": optimizer, "clip": 1.0}
        train(nets, data.x_train, data.y_train, lr=[1e-3, rate, 1e-3], progress=False, **options)
        runs.append(nets)
    assert not runs[1][1].head.weight.isfinite().all()
    for m in (0, 2):
        for name, tensor in runs[0][m].state_dict().items():
            assert tensor.equal(runs[1][m].state_dict()[name]), name


@pytest.mark.parametrize("before", [True, False])
def test_denormals_are_flushed_inside_only(before):
    def flushes(step: int = 0) -> float:
        seen.append(torch.tensor([1e-39]).item() == 0.0)
        return 1.0

    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormal floats")
    seen: list[bool] = []
    try:
        torch.set_flush_denormal(before)
        run(small(), steps=1, schedule=flushes)
        flushes()
    finally:
        torch.set_flush_denormal(False)
    assert seen == [True, before]


def test_progress_goes_to_stderr_and_vanishes(capsys):
    run(small(), progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "training 3 networks" in shown.err
    assert shown.err.endswith("\r")
    run(small())
    assert capsys.readouterr().err == ""


# Errors.


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.softmax(0)


class OwnParameter(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(64, 10))
        self.temperature = nn.Parameter(torch.ones(()))


class Subclass(nn.Linear):
    """Looks like a Linear and may compute anything."""


def tied() -> nn.Module:
    net = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10))
    net[1].weight = net[0].weight
    return net


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
            r"alike.*layers.1: Sequential.*Train them in separate",
        ),
        (lambda: [MLP(1), MLP(1, 16)], ValueError, "out_features=32.*network 1.*out_features=16"),
        (lambda: [MLP(1), MLP(1, activation="tanh")], ValueError, "ReLU.*Tanh"),
        (lambda: [MLP(1), MLP(1).eval()], ValueError, "train mode.*eval mode"),
        (lambda: [MLP(1), MLP(1).double()], ValueError, "float32.*float64"),
        (
            lambda: [MLP(1, residual="scaled"), MLP(1, residual="identity")][:1] * 2,
            ValueError,
            "share",
        ),
        (lambda: [MLP(4, residual="scaled"), MLP(4, residual="identity")], ValueError, "scale=0.5"),
        (lambda: [tied()], ValueError, "share a parameter"),
        (
            lambda: [nn.Sequential(nn.Linear(64, 10), Unknown())],
            TypeError,
            r"Unknown \(at '1'\).*plain",
        ),
        (
            lambda: [nn.Sequential(nn.Linear(64, 10), nn.Dropout())],
            TypeError,
            "know Dropout.*BatchNorm1d",
        ),
        (lambda: [hooked()], TypeError, "'head' has forward hooks"),
        (lambda: [OwnParameter()], TypeError, "OwnParameter.*top"),
        (lambda: [Subclass(64, 10)], TypeError, "Subclass"),
        (lambda: [nn.Sequential(nn.Flatten(0))], ValueError, r"use nn.Flatten\(\)"),
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
    with pytest.raises(ValueError, match=r"\(N, C\).*got \(1297, 8, 8\)"):
        train(small(), x.view(-1, 8, 8), y, **options)
    with pytest.raises(ValueError, match=r"y of shape \(N,\).*\(7,\)"):
        evaluate(small(), x, y[:7])
    with pytest.raises(TypeError, match="float32, and x is"):
        train(small(), x.double(), y, **options)
    with pytest.raises(TypeError, match="int64 class labels, got"):
        train(small(), x, y.float(), **options)
    with pytest.raises(ValueError, match="turn images into vectors"):
        train(
            [nn.Sequential(nn.Conv2d(1, 1, 3), nn.Linear(6, 10)) for _ in SEEDS],
            *IMAGES[:2],
            **options,
        )
    nets = [nn.Sequential(nn.Linear(64, 8), layers.InstanceNorm(8)) for _ in SEEDS]
    with pytest.raises(ValueError, match="InstanceNorm needs images"):
        train(nets, x, y, **options)
    with pytest.raises(ValueError, match=r"images over \(C, H, W\), got normalized_shape=\(8,\)"):
        train([nn.Sequential(nn.LayerNorm(8), nn.Flatten()) for _ in SEEDS], *IMAGES[:2], **options)
    with pytest.raises(ValueError, match="zero padding"):
        Population([nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")])
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


def test_module_level_names():
    """Every stacked kind is tested above: a new one must be added there."""
    kinds = {type(module) for module in other_net(0).modules()}
    kinds |= {type(m) for n in NORMS for m in CNN(2, norm=n).modules()}
    kinds |= {type(m) for m in Transformer(1).modules()}
    assert set(population._STACKED) <= kinds
