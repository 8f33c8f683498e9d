"""`recalibrate`: the statistics of all values, and that nothing is left of them."""

import contextlib
import copy
import io
import itertools

import pytest
import torch
from remembering import BATCH, KINDS, batches_for, each_kind, model_of, same, state
from torch import nn
from torch.optim.swa_utils import update_bn

from nbutils.diagnosis import frozen_batchnorm, preserve_statistics, recalibrate

SIZES = [2, 3, 12, 7]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Instance" not in kind])
@pytest.mark.parametrize("sizes", [SIZES, SIZES[::-1], [24]], ids=str)
def test_recalibrate_has_the_moments_of_all_values(kind, sizes):
    """Mean and unbiased variance, however the values are split; the counter counts batches."""
    model = model_of(kind)
    whole = torch.cat(batches_for(model, 3, seed=2))
    model[0] = nn.Sequential(model[0], nn.Dropout(0.5))  # in front of the norm, and to be off
    with torch.no_grad():
        values = model[0][0](whole).double().transpose(0, 1).flatten(1)  # (C, N)
    with recalibrate(model, ((x, None) for x in whole.split(sizes))) as same_model:
        assert same_model is model
        var, mean = torch.var_mean(values, 1)
        torch.testing.assert_close(model[1].running_mean.double(), mean, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(model[1].running_var.double(), var, rtol=2e-6, atol=1e-6)
        assert model[1].num_batches_tracked == len(sizes)


@pytest.mark.parametrize("kind", BATCH)
def test_update_bn_for_equal_batches_without_the_variance_between_them(kind):
    model = model_of(kind)
    twin = copy.deepcopy(model)
    twin[2] = nn.Identity()
    batches = batches_for(model, 5, seed=2)
    update_bn(batches, twin)
    with torch.no_grad():
        means = torch.stack([model[0](x).transpose(0, 1).flatten(1).mean(1) for x in batches])
        count = model[0](batches[0])[:, 0].numel()
    within, between = twin[1].running_var, means.var(0, correction=0)
    pooled = (5 * (count - 1) * within + 5 * count * between) / (5 * count - 1)
    with recalibrate(model, batches):
        torch.testing.assert_close(model[1].running_mean, twin[1].running_mean)
        torch.testing.assert_close(model[1].running_var, pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["nbutils BatchNorm", "InstanceNorm2d"])
def test_update_bn_passes_others_by_as_the_docstring_says(kind):
    model = model_of(kind).eval()
    before = model[1].running_mean.clone()
    update_bn(batches_for(model, 2), model)
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.parametrize(
    ("momentum", "passes", "held"),
    [(None, 3, 3), (0.1, 3, 3), (0.5, 40, 3), (1.0, 5, 1)],  # (2 - m) / m: 19, 3, 1
)
def test_keep_continues_from_what_is_there(momentum, passes, held):
    model = model_of("BatchNorm1d", passes)
    norm, (first, *rest) = model[1], batches_for(model, 4, seed=2)
    norm.momentum = momentum
    old_mean, old_var = norm.running_mean.double(), norm.running_var.double()
    with torch.no_grad():
        values = torch.cat([model[0](x) for x in [first[:4], *rest]]).double()
    n, m = len(values) / 4 * held, len(values)  # batches of 4, 8, 8 and 8: 7 on average
    var, mean = torch.var_mean(values, 0)
    with recalibrate(model, [first[:4], *rest], keep=True):
        expected = (n * old_mean + m * mean) / (n + m)
        torch.testing.assert_close(norm.running_mean.double(), expected, rtol=1e-6, atol=1e-6)
        squares = (n - 1) * old_var + (m - 1) * var + (old_mean - mean) ** 2 * n * m / (n + m)
        expected = squares / (n + m - 1)
        torch.testing.assert_close(norm.running_var.double(), expected, rtol=1e-6, atol=1e-6)
        assert norm.num_batches_tracked == passes + 4
    assert torch.equal(norm.running_mean.double(), old_mean)


def test_keep_of_instance_statistics():
    model = model_of("InstanceNorm2d")
    batch = batches_for(model, 1, seed=2)[0]
    old = model[1].running_var.clone()
    with recalibrate(model, [batch]):
        new = model[1].running_var.clone()
    with recalibrate(model, [batch], keep=True):  # momentum 0.1 holds 19 batches
        torch.testing.assert_close(model[1].running_var, (19 * old + new) / 20)
    model[1].momentum = None
    with recalibrate(model, [batch], keep=True):
        assert torch.equal(model[1].running_var, new)


@each_kind
def test_for_good(kind):
    model = model_of(kind)
    batches, before = batches_for(model, 2, seed=2), state(model)
    buffers = list(model.buffers())
    with recalibrate(model, batches):
        inside = state(model)
    with pytest.raises(ZeroDivisionError), recalibrate(model, batches, for_good=True):
        1 / 0  # noqa: B018
    same(inside, state(model))
    assert all(one is other for one, other in zip(model.buffers(), buffers, strict=True))
    with pytest.raises(ValueError, match="no batch"), recalibrate(model, [], for_good=True):
        pass
    same(inside, state(model))
    assert not torch.equal(before[0]["1.running_mean"], inside[0]["1.running_mean"])


class Draws(nn.Module):
    """Draws random numbers in evaluation mode too, and adds the second input."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, a, b):
        return self.norm(a + b + 0 * torch.randn(3))


@pytest.mark.parametrize(
    "batch",
    [lambda a, b: (a, b), lambda a, b: [a, b, "labels"], lambda a, b: {"b": b, "a": a}],
    ids=["tuple", "with labels", "dict"],
)
def test_several_inputs_and_the_random_state(batch):
    model, (a, b) = Draws(), torch.randn(2, 6, 3)
    before = torch.get_rng_state()
    with recalibrate(model, [batch(a, b)]):
        assert torch.equal(torch.get_rng_state(), before)
        torch.testing.assert_close(model.norm.running_mean, (a + b).mean(0))


def test_packed_sequences():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, packed):
            return self.norm(packed.data)

    model, parts = Tagger(), [torch.randn(n, 3) for n in (5, 2)]
    packed = nn.utils.rnn.pack_sequence(parts)
    with recalibrate(model, [packed]):
        torch.testing.assert_close(model.norm.running_mean, torch.cat(parts).mean(0))
    with pytest.raises(TypeError, match="got one PackedSequence"), recalibrate(model, packed):
        pass


def test_a_last_batch_of_one_and_an_empty_one():
    model = model_of("BatchNorm1d")
    before = state(model)
    for size, words in ((1, "drop_last=True"), (0, r"empty: its first tensor has shape \(0, 3\)")):
        batches = [torch.randn(8, 3), torch.randn(size, 3)]
        with pytest.raises(ValueError, match=words), recalibrate(model, batches):
            pass
        before = (*before[:3], torch.get_rng_state())  # moved by randn here
        same(before, state(model))


class Own(nn.Module):
    """A reader's own norm, which inherits from none and counts no batches."""

    def __init__(self):
        super().__init__()
        self.momentum = 0.1
        self.register_buffer("running_mean", torch.zeros(3))
        self.register_buffer("running_var", torch.ones(3))

    def forward(self, x):
        if self.training:
            self.running_mean.lerp_(x.mean(0), self.momentum)
            self.running_var.lerp_(x.var(0), self.momentum)
        return (x - self.running_mean) / self.running_var.sqrt()


def test_a_layer_of_ones_own():
    model, x = nn.Sequential(Own()), torch.randn(12, 3)
    model[0].running_mean.fill_(2)
    with recalibrate(model, x.split([4, 8])):
        torch.testing.assert_close(model[0].running_mean, x.mean(0))
        torch.testing.assert_close(model[0].running_var, x.var(0))
    with recalibrate(model, [x], keep=True):  # momentum 0.1 holds 19 batches
        torch.testing.assert_close(model[0].running_mean, (2 * 19 + x.mean(0)) / 20)


def test_a_layer_with_another_idea_of_momentum():
    class Keras(Own):
        def forward(self, x):
            if self.training:  # momentum is the weight of the old statistics
                self.running_mean.lerp_(x.mean(0), 1 - self.momentum)
                self.running_var.lerp_(x.var(0), 1 - self.momentum)
            return (x - self.running_mean) / self.running_var.sqrt()

    model = nn.Sequential(Keras())
    with (
        pytest.raises(ValueError, match="0: Keras did not take over"),
        recalibrate(model, [torch.randn(8, 3)]),
    ):
        pass
    with frozen_batchnorm(model):
        model(torch.randn(8, 3))
    assert (model[0].running_mean == 0).all()


def test_a_negative_variance_is_replaced_but_not_kept():
    model = model_of("BatchNorm1d")
    model[1].running_var[2] = -0.25
    batches = batches_for(model, 2)
    with recalibrate(model, batches):
        assert (model[1].running_var > 0).all()
    with (
        pytest.raises(ValueError, match=r"1 has a negative running variance, -0\.25"),
        recalibrate(model, batches, keep=True),
    ):
        pass


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "Instance" in kind])
def test_recalibrate_averages_instance_statistics(kind):
    model = model_of(kind)
    batches = batches_for(model, 5, seed=2)
    with torch.no_grad():
        inner = torch.stack([model[0](x) for x in batches])  # (batches, N, C, H, W)
    with recalibrate(model, batches):
        expected = inner.mean((0, 1, 3, 4)), inner.var((3, 4)).mean((0, 1))
        torch.testing.assert_close(model[1].running_mean, expected[0], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(model[1].running_var, expected[1], rtol=1e-5, atol=1e-5)


@each_kind
@pytest.mark.parametrize("training", [True, False])
def test_recalibrate_leaves_nothing(kind, training):
    model = model_of(kind).train(training)
    before = state(model)
    with recalibrate(model, batches_for(model, 2)):
        inside = state(model)
        assert inside[1:3] == before[1:3]
        assert not torch.equal(inside[0]["1.running_mean"], before[0]["1.running_mean"])
    same(before, state(model))
    assert all(p.grad is None for p in model.parameters())

    def breaks():
        yield from batches_for(model, 1)
        raise OSError("disk")

    for broken, error in ((breaks(), OSError), (iter([]), ValueError)):
        with pytest.raises(error), recalibrate(model, broken):
            pass
        same(before, state(model))


def test_recalibrate_heals_a_poisoned_average():
    model = model_of("BatchNorm1d")
    model[1].running_mean.fill_(float("nan"))
    with recalibrate(model, batches_for(model, 2)):
        assert model[1].running_mean.isfinite().all()
    assert model[1].running_mean.isnan().all()


def test_a_layer_that_is_not_reached_keeps_its_statistics():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
            self.unused.running_mean.fill_(7)

        def forward(self, x):
            return self.used(self.used(x))

    model = Branches()
    x = torch.randn(16, 3) + 4
    with recalibrate(model, [x]):
        assert (model.unused.running_mean == 7).all()
        assert model.used.num_batches_tracked == 2  # both calls of the layer count, equally
        torch.testing.assert_close(model.used.running_mean, x.mean(0) / 2)


def test_recalibrate_inside_frozen():
    model = model_of("BatchNorm1d")
    before = model[1].running_mean.clone()
    batches = batches_for(model, 2)
    with frozen_batchnorm(model):
        with recalibrate(model, batches):
            recalibrated = model[1].running_mean.clone()
            assert not torch.equal(recalibrated, before)
            model(batches[0])
            assert torch.equal(model[1].running_mean, recalibrated)
        assert torch.equal(model[1].running_mean, before)


def test_one_tensor_is_not_batches():
    with (
        pytest.raises(TypeError, match=r"x\.split"),
        recalibrate(model_of("BatchNorm1d"), torch.ones(8, 3)),
    ):
        pass


def test_all_three_together_leave_nothing():
    managers = [
        frozen_batchnorm,
        preserve_statistics,
        lambda m: recalibrate(m, [torch.randn(8, 3)]),
    ]
    for order in itertools.permutations(managers):
        model = model_of("BatchNorm1d")
        before = state(model)
        with contextlib.ExitStack() as stack:
            torch_state = torch.get_rng_state()
            for manager in order:
                stack.enter_context(manager(model))
            torch.save(model.state_dict(), io.BytesIO())
            torch.set_rng_state(torch_state)
        same(before, state(model))
