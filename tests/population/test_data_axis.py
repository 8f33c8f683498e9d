"""Data for each network, and runs that diverge."""

from __future__ import annotations

import copy

import pytest
import torch

from nbutils.networks import MLP
from nbutils.population import evaluate, train
from tests.population.cases import SEEDS, VECTORS, loop, small

X, Y = VECTORS.x_train, VECTORS.y_train
OPTIONS = {"steps": 3, "batch_size": 8, "lr": 0.1, "seeds": SEEDS, "progress": False}


def test_every_network_its_own_split():
    index = torch.stack([torch.randperm(len(X))[:100] for _ in SEEDS])
    by_index, with_axis, alone = small(norm="batch"), small(norm="batch"), small(norm="batch")
    train(by_index, X, Y, index=index, **OPTIONS)
    train(with_axis, X[index], Y[index], **OPTIONS)
    for net, rows, seed in zip(alone, index, SEEDS, strict=True):
        loop(net, X[rows], Y[rows], steps=3, batch_size=8, lr=0.1, seed=seed)
    for three in zip(by_index, with_axis, alone, strict=True):
        for values in zip(*(net.state_dict().values() for net in three), strict=True):
            torch.testing.assert_close(values[0], values[2], rtol=0, atol=1e-5)
            assert values[0].equal(values[1])
    own = evaluate(by_index, X, Y, index=index)
    for net, rows, row in zip(by_index, index, own.itertuples(), strict=True):
        assert row.accuracy == pytest.approx(evaluate([net], X[rows], Y[rows]).accuracy[0])
    assert own.loss.tolist() == evaluate(by_index, X[index], Y[index]).loss.tolist()


def test_data_axis_errors():
    index = torch.zeros(2, 5, dtype=torch.int64)
    with pytest.raises(ValueError, match="index must be int64 of shape.*3 networks"):
        train(small(), X, Y, index=index, **OPTIONS)
    with pytest.raises(ValueError, match="rows 0 to 1296"):
        train(small(), X, Y, index=torch.full((3, 8), 9999), **OPTIONS)
    with pytest.raises(ValueError, match="data of 2 networks; there are 3"):
        train(small(), X[index], Y[index], **OPTIONS)


def test_divergence_is_a_result():
    nets = [MLP(2, 8, seed=s) for s in range(3)]
    # The second network's update of step 1 is infinite: it diverges from step 2 on.
    records = train(nets, X, Y, every=1, **{**OPTIONS, "lr": [0.1, float("inf"), 0.1]})
    second = records[records.network == 1]
    assert second.diverged.tolist() == [False, True, True]
    assert second.loss.isna().tolist() == second.accuracy.isna().tolist() == [False, True, True]
    assert not records[records.network != 1].diverged.any()
    assert records[records.network != 1].notna().all(axis=None)
    table = evaluate(nets, X, Y)
    assert table.diverged.tolist() == [False, True, False]
    assert table.accuracy.isna().tolist() == table.diverged.tolist()


def test_infinite_logits_count_as_divergence():
    """The loss of a right and infinite logit may be finite elsewhere in the batch; not here."""
    nets = small()
    with torch.no_grad():
        nets[1].head.weight[:, 0] = float("-inf")
        nets[2].head.bias[3] = float("-inf")  # a class that no image gets: the loss may be finite
    chosen = Y != 3
    table = evaluate(nets, X[chosen], Y[chosen])
    assert table.diverged.tolist() == [False, True, True]
    alone = evaluate(copy.deepcopy(nets[:1]), X[chosen], Y[chosen])
    assert table.loss[0] == pytest.approx(alone.loss[0])
