"""What the tests of `population` share: the loop that everybody writes, and comparisons with it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from nbutils.data import digits, minibatches
from nbutils.networks import MLP
from nbutils.population import evaluate, train

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
    x, y = data.x_train.to(next(nets[0].parameters()).dtype), data.y_train
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
    x, y = data.x_test[:200].to(next(nets[0].parameters()).dtype), data.y_test[:200]
    for mode in (True, False):
        table = evaluate(nets, x, y, train_mode=mode)
        for net, row in zip(looped, table.itertuples(), strict=True):
            with torch.no_grad():
                logits = copy.deepcopy(net).train(mode)(x)
            assert row.loss == pytest.approx(functional.cross_entropy(logits, y).item(), abs=1e-4)
            expected = (logits.argmax(1) == y).float().mean().item()
            assert row.accuracy == pytest.approx(expected, abs=2.1 / len(y))


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
