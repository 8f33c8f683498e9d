"""A sweep trains as `train` does, on three parts of the data, and the best rate is interior."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

from nbutils.networks import MLP
from nbutils.population import at_best_rate, evaluate, sweep, train
from tests.population.cases import VECTORS

X, Y = VECTORS.x_train[:800], VECTORS.y_train[:800]
VALID = VECTORS.x_train[800:], VECTORS.y_train[800:]
TEST = VECTORS.x_test, VECTORS.y_test
RATES, SEEDS = (0.01, 0.1, 0.3), (5, 6)
OPTIONS = {"valid": VALID, "test": TEST, "batch_size": 16, "progress": False}


def net(norm: str | None, seed: int) -> MLP:
    return MLP(2, 8, norm=norm, seed=seed)


def test_equals_separate_runs_of_each_length():
    arms = {norm: partial(net, norm) for norm in (None, "batch")}
    runs = sweep(arms, X, Y, rates=RATES, seeds=SEEDS, at=(3, 7), optimizer="momentum", **OPTIONS)
    assert list(runs)[:4] == ["arm", "rate", "seed", "steps"]
    assert len(runs) == 2 * 3 * 2 * 2
    for row in runs.itertuples():
        alone = [net(row.arm, row.seed)]
        train(
            alone, X, Y, steps=row.steps, batch_size=16, lr=row.rate, optimizer="momentum",
            seeds=[row.seed], progress=False,
        )  # fmt: skip
        assert row.valid_loss == pytest.approx(evaluate(alone, *VALID).loss[0], rel=1e-4)
        assert row.test_accuracy == pytest.approx(evaluate(alone, *TEST).accuracy[0], abs=0.005)


def test_with_a_schedule_each_length_is_a_run_of_its_own():
    def falling(step: int, steps: int) -> float:
        return 1 - step / steps

    runs = sweep(
        partial(net, None), X, Y, rates=[0.1], seeds=[5], at=(2, 4), schedule=falling, **OPTIONS
    )
    assert "arm" not in runs
    for row in runs.itertuples():
        alone = [net(None, 5)]
        factor = partial(falling, steps=row.steps)
        train(
            alone, X, Y, steps=row.steps, batch_size=16, lr=0.1, seeds=[5], schedule=factor,
            progress=False,
        )  # fmt: skip
        assert row.valid_loss == pytest.approx(evaluate(alone, *VALID).loss[0], rel=1e-4)


def test_a_split_per_seed():
    own = torch.stack([torch.randperm(800)[:200] for _ in SEEDS])
    held_out = torch.stack([torch.randperm(800)[:90] for _ in SEEDS])
    options = {**OPTIONS, "valid": (X[held_out], Y[held_out])}
    runs = sweep(partial(net, "layer"), X[own], Y[own], rates=RATES, seeds=SEEDS, at=3, **options)
    for row in runs.itertuples():
        place = SEEDS.index(row.seed)
        alone = [net("layer", row.seed)]
        train(
            alone, X[own[place]], Y[own[place]], steps=3, batch_size=16, lr=row.rate,
            seeds=[row.seed], progress=False,
        )  # fmt: skip
        expected = evaluate(alone, X[held_out[place]], Y[held_out[place]])
        assert row.valid_loss == pytest.approx(expected.loss[0], rel=1e-4)


def test_a_diverged_run_has_no_score():
    runs = sweep(
        partial(net, None), X, Y, rates=[0.1, float("inf")], seeds=SEEDS, at=3, **OPTIONS
    )
    assert runs.diverged.tolist() == [False, False, True, True]
    assert runs.valid_accuracy.isna().tolist() == runs.diverged.tolist()
    assert runs.test_loss.isna().tolist() == runs.diverged.tolist()


# The choice of a rate.


def table(scores: dict[float, list[float]], **columns: object) -> pd.DataFrame:
    rows = [
        {"rate": rate, "seed": seed, "steps": 10, "valid_accuracy": score, **columns}
        for rate, values in scores.items()
        for seed, score in enumerate(values)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(diverged=frame.valid_accuracy.isna(), valid_loss=1 - frame.valid_accuracy)


def test_the_best_rate_by_the_mean():
    frame = table({0.01: [0.5, 0.5], 0.1: [0.9, 0.7], 1.0: [0.75, 0.8], 10.0: [0.2, 0.2]})
    for metric in ("valid_accuracy", "valid_loss"):
        best = at_best_rate(frame, metric=metric)
        assert best.rate.unique().tolist() == [0.1]
        assert best.best.tolist() == ["0.1", "0.1"]


def test_each_arm_and_length_has_its_own():
    one = table({0.1: [0.3], 1.0: [0.9], 10.0: [0.2]}, arm="a")
    other = table({0.1: [0.3], 1.0: [0.9], 10.0: [0.95], 100.0: [0.1]}, arm="b")
    longer = other.assign(steps=20, valid_accuracy=[0.3, 0.99, 0.9, 0.1])
    best = at_best_rate(pd.concat([one, other, longer]), by="arm")
    assert best[["arm", "steps", "rate"]].to_numpy().tolist() == [
        ["a", 10, 1.0],
        ["b", 10, 10.0],
        ["b", 20, 1.0],
    ]


def test_a_diverged_run_counts_as_worst():
    frame = table({0.1: [0.5, 0.5], 1.0: [0.7, 0.7], 10.0: [0.99, np.nan], 100.0: [0.1, 0.1]})
    for metric in ("valid_accuracy", "valid_loss"):
        assert at_best_rate(frame, metric=metric).rate.unique().tolist() == [1.0]


def test_an_edge_raises_unless_it_is_a_tie():
    clear = {0.1: [0.5, 0.5, 0.5], 1.0: [0.7, 0.7, 0.72], 10.0: [0.8, 0.8, 0.81]}
    for scores in (clear, {1 / rate: values for rate, values in clear.items()}):
        with pytest.raises(ValueError, match="edge of.*Widen the grid"):
            at_best_rate(table(scores))
    tie = {0.1: [0.5, 0.5, 0.5], 1.0: [0.7, 0.7, 0.7], 10.0: [0.9, 0.65, 0.6]}
    assert at_best_rate(table(tie)).rate.unique().tolist() == [1.0]


def test_an_arm_at_chance_has_no_best_rate():
    frame = table({0.1: [0.1, 0.11], 1.0: [0.1, 0.1], 10.0: [0.09, 0.12]})
    assert at_best_rate(frame).best.unique().tolist() == ["none"]
    assert at_best_rate(frame, chance=0.01).best.unique().tolist() != ["none"]
    dead = table({0.1: [np.nan, np.nan], 1.0: [np.nan, np.nan], 10.0: [np.nan, np.nan]})
    assert at_best_rate(dead).best.unique().tolist() == ["none"]


def test_errors():
    with pytest.raises(ValueError, match="grid of at least 3, got 2"):
        at_best_rate(table({0.1: [0.5], 1.0: [0.6]}))
    with pytest.raises(KeyError, match=r"no column \['arm'\]"):
        at_best_rate(table({0.1: [0.5]}), by="arm")
    build = partial(net, None)
    for change in ({"rates": []}, {"seeds": []}, {"at": 0}, {"at": ()}):
        options = {"rates": RATES, "seeds": SEEDS, "at": 2, **OPTIONS, **change}
        with pytest.raises(ValueError, match="at least one arm, rate, seed"):
            sweep(build, X, Y, **options)
    with pytest.raises(ValueError, match="data for each of 2 seeds, got 3"):
        sweep(build, X.expand(3, *X.shape), Y.expand(3, -1), rates=RATES, seeds=SEEDS, at=1,
              **OPTIONS)  # fmt: skip
