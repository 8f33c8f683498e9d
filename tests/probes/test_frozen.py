"""`frozen_batchnorm`: what it does inside, and that nothing is left of it."""

import copy
import pickle

import pytest
import torch
from remembering import batches_for, each_kind, model_of, same, state, vectors
from torch import nn

from nbutils.diagnosis import frozen_batchnorm, recalibrate


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


@pytest.mark.parametrize("where", ["whole", "inner"])
def test_a_compiled_model_that_has_run_is_frozen(where):
    model = model_of("BatchNorm1d")
    x = batches_for(model, 1)[0]
    if where == "whole":
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = nn.Sequential(torch.compile(model, backend="eager"))
    compiled(x)
    before = model[1].running_mean.clone()
    with frozen_batchnorm(compiled):
        compiled(x)
        assert torch.equal(model[1].running_mean, before)
    compiled(x)
    assert not torch.equal(model[1].running_mean, before)


class Evo(nn.Module):
    """A foreign layer, which has one of the two statistics, and updates it in every mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_var", torch.ones(5))

    def forward(self, x):
        with torch.no_grad():
            self.running_var.lerp_(x.var(0), 0.1)
        return x / self.running_var.sqrt()


class Stubborn(Evo):
    """It has both, but does not ask for its mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(5))


class ByParent(nn.Module):
    """A BatchNorm that its parent computes, and that is not called."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)

    def forward(self, x):
        memory = self.norm.running_mean, self.norm.running_var
        return nn.functional.batch_norm(x, *memory, training=self.training)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Evo, r"cannot freeze 3 \(Evo.running_var\)"),
        (Stubborn, r"cannot freeze 3 \(Stubborn.running_var\)"),
        (ByParent, r"3.norm \(BatchNorm1d.running_mean\), 3.norm \(BatchNorm1d.running_var\)"),
    ],
)
def test_a_layer_that_moves_all_the_same_is_named_and_put_back(layer, words):
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Identity(), layer())
    before = state(model)
    with frozen_batchnorm(model):
        with pytest.raises(RuntimeError, match=words):
            model(torch.ones(4, 3) * torch.arange(4.0)[:, None])
        torch.testing.assert_close(model.state_dict(), before[0], rtol=0, atol=0)
    same(before, state(model))


def test_a_reader_may_load_statistics_inside():
    model = model_of("BatchNorm1d")
    with frozen_batchnorm(model):
        model(batches_for(model, 1)[0])
        model[1].running_mean.fill_(7)
        model(batches_for(model, 1)[0])
    assert (model[1].running_mean == 7).all()


def test_frozen_under_vmap():
    model = model_of("nbutils BatchNorm")
    x = torch.stack(batches_for(model, 2))
    parameters = {n: torch.stack([p, p]) for n, p in model.named_parameters()}
    buffers = {n: torch.stack([b, b]) for n, b in model.named_buffers()}
    model[2].eval()
    with frozen_batchnorm(model), torch.no_grad():
        run = torch.func.vmap(lambda p, b, x: torch.func.functional_call(model, {**p, **b}, (x,)))
        torch.testing.assert_close(run(parameters, buffers, x)[1], model(x[1]))


def test_foreign_layers_are_named_where_there_is_no_other():
    with (
        pytest.raises(ValueError, match=r"another make: 0 \(Evo: running_var\)"),
        frozen_batchnorm(nn.Sequential(Evo())),
    ):
        pass


def test_norms_in_plain_lists_are_frozen():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.branches = {"a": [nn.BatchNorm1d(5)]}

        def forward(self, x):
            return self.branches["a"][0](x)

    model = Branches()
    with frozen_batchnorm(model):
        model(3 + torch.randn(8, 5))
    assert (model.branches["a"][0].running_mean == 0).all()


def test_a_negative_running_variance():
    model = model_of("BatchNorm1d")
    model[1].running_var[0] = -1
    with (
        pytest.raises(ValueError, match="1 has a negative running variance, -1"),
        frozen_batchnorm(model),
    ):
        pass
