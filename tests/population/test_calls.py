"""What `train` and `evaluate` return, and what they leave behind."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.population.cases import IMAGES, OPTIMIZERS, SEEDS, VECTORS, run, small
from torch import nn

from nbutils.networks import CNN, MLP
from nbutils.population import evaluate, train


def test_records():
    tags = [{"init": "he", "width": w} for w in (1, 2, 3)]
    records = run(small(), steps=8, every=3, tags=tags)
    assert list(records) == ["network", "step", "loss", "accuracy", "diverged", "init", "width"]
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
    assert list(table) == ["network", "loss", "accuracy", "diverged", "a"]
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
