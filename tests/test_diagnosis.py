"""The context managers of `diagnosis`: what they do inside, and that nothing is left of it."""

import contextlib
import copy
import io
import itertools
import pickle

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from nbutils import layers
from nbutils.diagnosis import frozen_batchnorm, preserve_statistics, recalibrate


def vectors(norm):
    return nn.Sequential(nn.Linear(3, 5), norm, nn.Dropout(0.5), nn.Linear(5, 2))


def images(norm):
    return nn.Sequential(nn.Conv2d(3, 5, 3), norm, nn.Dropout(0.5), nn.Conv2d(5, 2, 1))


KINDS = {
    "BatchNorm1d": (vectors, lambda: nn.BatchNorm1d(5)),
    "BatchNorm2d": (images, lambda: nn.BatchNorm2d(5)),
    "no affine": (vectors, lambda: nn.BatchNorm1d(5, affine=False)),
    "momentum None": (vectors, lambda: nn.BatchNorm1d(5, momentum=None)),
    "SyncBatchNorm": (vectors, lambda: nn.SyncBatchNorm(5)),
    "InstanceNorm2d": (images, lambda: nn.InstanceNorm2d(5, track_running_stats=True)),
    "nbutils BatchNorm": (images, lambda: layers.BatchNorm(5)),
    "nbutils InstanceNorm": (images, lambda: layers.InstanceNorm(5, track_running_stats=True)),
}
BATCH = ("BatchNorm1d", "BatchNorm2d", "no affine", "momentum None", "SyncBatchNorm")
each_kind = pytest.mark.parametrize("kind", KINDS)


def model_of(kind, passes=3):
    """A model in train(), with statistics that it has seen `passes` batches for."""
    torch.manual_seed(0)
    build, norm = KINDS[kind]
    model = build(norm())
    for x in batches_for(model, passes):
        model(x)
    return model


def batches_for(model, count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (8, 3) if isinstance(model[0], nn.Linear) else (8, 3, 6, 6)
    return [2 + 3 * torch.randn(shape, generator=generator) for _ in range(count)]


def state(model):
    """All that a helper could leave behind: parameters, buffers, modes, momenta, hooks, flags."""
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    rest = [
        (module.training, getattr(module, "momentum", None), list(module._forward_hooks),
         list(module._forward_pre_hooks), sorted(vars(module)))
        for module in model.modules()
    ]  # fmt: skip
    return tensors, rest, [p.requires_grad for p in model.parameters()], torch.get_rng_state()


def same(a, b):
    tensors, other = a[0], b[0]
    assert tensors.keys() == other.keys()
    for name, value in tensors.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=0, equal_nan=True, msg=name)
    assert a[1:3] == b[1:3]
    assert torch.equal(a[3], b[3])


# --- frozen_batchnorm ---


@each_kind
def test_frozen_normalizes_by_what_it_remembers(kind):
    model = model_of(kind)
    x = batches_for(model, 1, seed=7)[0]
    norm, inner = model[1], model[0](x)
    expected = copy.deepcopy(norm).eval()(inner)
    before = copy.deepcopy(norm.state_dict())
    assert not torch.allclose(copy.deepcopy(norm)(inner), expected)
    with frozen_batchnorm(model) as same_model:
        assert same_model is model
        model.train()
        assert torch.equal(norm(inner), expected)
        model(x).sum().backward()
        assert (model[2](torch.ones(100)) == 0).any()  # dropout is still on
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name])
    norm(inner)  # awake again
    assert not torch.equal(norm.running_mean, before["running_mean"])


@each_kind
@pytest.mark.parametrize("training", [True, False])
def test_frozen_leaves_nothing(kind, training):
    model = model_of(kind).train(training)
    before = state(model)
    with frozen_batchnorm(model, affine=True):
        pass
    same(before, state(model))
    with pytest.raises(RuntimeError, match=r"mat1 and mat2|channels"), frozen_batchnorm(model):
        model(torch.ones((4, 7) if isinstance(model[0], nn.Linear) else (4, 7, 6, 6)))
    same(before, state(model))


def test_a_failure_inside_the_layer_restores_its_mode():
    model = model_of("BatchNorm1d")
    with frozen_batchnorm(model):
        with pytest.raises(RuntimeError):
            model[1](torch.randn(4, 7))
        assert model[1].training


def test_the_mode_asked_for_inside_stays():
    model = model_of("BatchNorm1d")
    with frozen_batchnorm(model):
        model.eval()
    assert not any(module.training for module in model.modules())


def test_frozen_in_frozen():
    model = model_of("BatchNorm1d")
    x = batches_for(model, 1)[0]
    with frozen_batchnorm(model):
        with frozen_batchnorm(model):
            model(x)
        before = model[1].running_mean.clone()
        model(x)
        assert torch.equal(model[1].running_mean, before)
    model(x)
    assert not torch.equal(model[1].running_mean, before)


def test_affine_is_trained_unless_frozen_too():
    model = model_of("BatchNorm1d")
    x = batches_for(model, 1)[0]
    model[1].bias.requires_grad_(False)
    for affine in (False, True):
        model.zero_grad()
        with frozen_batchnorm(model, affine=affine):
            model(x).square().sum().backward()
        assert (model[1].weight.grad is None) == affine
        assert model[1].weight.requires_grad
        assert not model[1].bias.requires_grad


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_made_inside_is_not_frozen_for_ever(clone):
    model = model_of("BatchNorm1d")
    with frozen_batchnorm(model):
        other = clone(model)
    before = other[1].running_mean.clone()
    other(batches_for(model, 1)[0])
    assert not torch.equal(other[1].running_mean, before)


@pytest.mark.parametrize(
    "manager", [frozen_batchnorm, lambda m: recalibrate(m, [torch.ones(4, 3)])]
)
@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (nn.LayerNorm(5), "no layer with running statistics"),
        (nn.InstanceNorm1d(5), "no layer with running statistics"),
        (nn.BatchNorm1d(5, track_running_stats=False), "1: built with track_running_stats=False"),
        (nn.LazyBatchNorm1d(), "1: it is lazy"),
    ],
)  # fmt: skip
def test_nothing_to_work_on(manager, norm, words):
    model = vectors(norm)
    with pytest.raises(ValueError, match=words), manager(model):
        pass


# --- preserve_statistics ---


@each_kind
@pytest.mark.parametrize("fails", [False, True])
def test_preserve_puts_buffers_back(kind, fails):
    model = model_of(kind)
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    expectation = pytest.raises(ZeroDivisionError) if fails else contextlib.nullcontext()
    with expectation, preserve_statistics(model):
        model(batches_for(model, 1, seed=7)[0])
        assert not torch.equal(model[1].running_mean, buffers["1.running_mean"][1])
        model[1].running_var = None
        if fails:
            1 / 0  # noqa: B018
    for name, buffer in model.named_buffers():
        assert buffer is buffers[name][0]
        assert torch.equal(buffer, buffers[name][1])


def test_preserve_in_preserve():
    model = model_of("BatchNorm1d")
    first, second = batches_for(model, 2)
    with preserve_statistics(model):
        model(first)
        middle = model[1].running_mean.clone()
        with preserve_statistics(model):
            model(second)
        assert torch.equal(model[1].running_mean, middle)


@pytest.mark.parametrize("training", [True, False])
def test_backward_may_come_after_the_block(training):
    model = model_of("BatchNorm1d").train(training)
    x = batches_for(model, 1)[0]
    twin = copy.deepcopy(model)
    gradients = []
    for net, keep in ((model, preserve_statistics), (twin, contextlib.nullcontext)):
        torch.manual_seed(3)
        with keep(net):
            loss = net(x).square().sum()
        loss.backward()
        gradients.append(net[0].weight.grad)
    assert torch.equal(*gradients)


def test_preserve_follows_a_conversion():
    model = model_of("BatchNorm1d")
    with preserve_statistics(model):
        model.double()
        model(batches_for(model, 1)[0].double())
    assert model[1].running_mean.dtype == torch.float64
    assert torch.equal(model[1].running_mean.float(), model_of("BatchNorm1d")[1].running_mean)


def test_preserve_keeps_shared_buffers_shared_and_other_buffers_too():
    first, second = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
    second.running_mean = first.running_mean
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 5))
    model = nn.Sequential(first, second, spectral)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with preserve_statistics(model):
        model(torch.randn(8, 5))
        assert first.running_mean is second.running_mean
    after = dict(model.named_buffers())
    assert before.keys() == after.keys()
    assert any("_u" in name for name in after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_preserve_a_model_without_buffers():
    model = nn.Linear(3, 3)
    with preserve_statistics(model):
        model(torch.ones(2, 3))


# --- recalibrate ---


@pytest.mark.parametrize("kind", BATCH)
def test_recalibrate_is_update_bn_without_dropout(kind):
    model = model_of(kind)
    twin = copy.deepcopy(model)
    twin[2] = nn.Identity()
    batches = batches_for(model, 5, seed=2)
    update_bn(batches, twin)
    with recalibrate(model, ((x, None) for x in batches)) as same_model:
        assert same_model is model
        for name, buffer in twin[1].named_buffers():
            torch.testing.assert_close(getattr(model[1], name), buffer, rtol=1e-6, atol=1e-6)


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
