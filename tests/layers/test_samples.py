"""PyTorch's own samples, of its modules and its operators: ours gives what PyTorch gives.

They come with the installed torch, so a newer one brings its new cases along. `make test` runs them
in float64 and float32; NBUTILS_ALL_SAMPLES=1 also in half precision, the operators' longer lists of
reference inputs, and other strides.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from functools import cache

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from nbutils import norm
from nbutils.layers import BatchNorm, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from tests.layers import mutants
from tests.layers.cases import close, normal, randomize, same_state

ALL = os.environ.get("NBUTILS_ALL_SAMPLES") == "1"
HALF = (torch.float16, torch.bfloat16)
DTYPES = (torch.float64, torch.float32, *(HALF if ALL else ()))
MODULES = {
    "nn.BatchNorm1d": BatchNorm,
    "nn.BatchNorm2d": BatchNorm,
    "nn.BatchNorm3d": BatchNorm,
    "nn.InstanceNorm1d": InstanceNorm,
    "nn.InstanceNorm2d": InstanceNorm,
    "nn.InstanceNorm3d": InstanceNorm,
    "nn.GroupNorm": GroupNorm,
    "nn.LayerNorm": LayerNorm,
    "nn.RMSNorm": RMSNorm,
}
# It sums over neighbouring channels, and averages over no axis; the course has no layer for it.
OTHER_MODULES = {"nn.LocalResponseNorm"}
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@cache
def databases() -> tuple[list, list]:
    """PyTorch's samples of modules and of operators: an import that takes seconds."""
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import module_db

    settings.load_profile("course")  # the import has loaded PyTorch's own
    return module_db, op_db


def module_infos() -> dict:
    return {info.name: info for info in databases()[0] if "Norm" in info.name}


def operators(name: str) -> list:
    return [op for op in databases()[1] if op.name == name]


def copied(structure):
    """The same arguments, sharing no memory and no history."""
    copy = lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad)  # noqa: E731
    return tree_map_only(Tensor, copy, structure)


def interleaved(x: Tensor) -> Tensor:
    """x with other strides: every second number of a tensor twice as long."""
    return x.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_(x.requires_grad)


def same_gradients(
    y: Tensor, inputs: Sequence[Tensor], expected: Tensor, theirs: Sequence[Tensor], ulps: float
) -> None:
    cotangent = normal(*y.shape, seed=2, dtype=y.dtype)
    gradients = torch.autograd.grad(y, inputs, cotangent)
    wanted = torch.autograd.grad(expected, theirs, cotangent)
    for gradient, wanted_gradient in zip(gradients, wanted, strict=True):
        close(gradient, wanted_gradient, ulps=ulps)


def ulps_of(dtype: torch.dtype) -> float:
    """Some samples have groups of few values that lie close together: rounding counts more."""
    return 4 if dtype in HALF else 512


# Modules.


def module_samples(name: str, dtype: torch.dtype, training: bool) -> list:
    info = module_infos()[name]
    return info.module_inputs_func(
        info, device="cpu", dtype=dtype, requires_grad=True, training=training
    )


def twins(name: str, sample, dtype: torch.dtype, training: bool) -> tuple[nn.Module, nn.Module]:
    args, options = sample.constructor_input.args, sample.constructor_input.kwargs
    theirs = module_infos()[name].module_cls(*args, **options, device="cpu", dtype=dtype)
    ours = MODULES[name](*args, **options, device="cpu", dtype=dtype)
    same_state(ours, theirs)
    assert repr(ours).partition("(")[2] == repr(theirs).partition("(")[2]
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.train(training), theirs.train(training)


def check_module(name: str, sample, dtype: torch.dtype, training: bool, strides=copied) -> None:
    ours, theirs = twins(name, sample, dtype, training)
    (x,) = sample.forward_input.args
    if "no_batch_dim" in sample.desc:  # our InstanceNorm takes batches only, and says so
        with pytest.raises(ValueError, match="InstanceNorm"):
            ours(x)
        return
    for _ in range(2):  # the second finds running statistics of the first
        x, x_theirs = strides(x), copied(x)
        y, expected = ours(x), theirs(x_theirs)
        close(y, expected, ulps_of(dtype))
        inputs, wanted = [x, *ours.parameters()], [x_theirs, *theirs.parameters()]
        same_gradients(y, inputs, expected, wanted, ulps_of(dtype))
        same_state(ours, theirs)
    ours.reset_parameters()
    theirs.reset_parameters()
    same_state(ours, theirs)


@each_dtype
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_module(name, training, dtype):
    if dtype not in module_infos()[name].dtypes and dtype in HALF:
        pytest.skip("PyTorch has no samples of it in this dtype")
    samples = module_samples(name, dtype, training)
    assert samples
    for sample in samples:
        check_module(name, sample, dtype, training)
        if ALL:
            check_module(name, sample, dtype, training, strides=interleaved)


def test_module_errors():
    options = {"device": "cpu", "dtype": torch.float64, "requires_grad": False, "training": True}
    samples = [
        (name, sample)
        for name in MODULES
        for info in [module_infos()[name]]
        if info.module_error_inputs_func is not None
        for sample in info.module_error_inputs_func(info, **options)
    ]
    assert samples
    for name, sample in samples:
        built = sample.module_error_input.constructor_input
        given = sample.module_error_input.forward_input
        with pytest.raises(sample.error_type, match=sample.error_regex):
            MODULES[name](*built.args, **built.kwargs, dtype=torch.float64)(*given.args)


def test_every_norm_of_pytorch_is_compared():
    names = {name for name in module_infos() if "Lazy" not in name}
    assert names == MODULES.keys() | OTHER_MODULES


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", MODULES)
def test_further_derivatives_of_modules(name, training):
    """Forward mode, and second derivatives."""
    for sample in module_samples(name, torch.float64, training):
        if "no_batch_dim" not in sample.desc and "large_batch" not in sample.desc:
            ours, _ = twins(name, sample, torch.float64, training)
            (x,) = sample.forward_input.args
            assert torch.autograd.gradcheck(ours, (x,), check_forward_ad=True, fast_mode=True)
            assert torch.autograd.gradgradcheck(ours, (x,), fast_mode=True)


# Operators: the layer that computes what an operator does with what stands behind its input.


def layer_with(kind, shape, options: dict, weight, bias, mean=None, var=None, training=True):
    """A layer with copies of these tensors, and the tensors."""
    if issubclass(kind, (BatchNorm, InstanceNorm)):
        options["track_running_stats"] = mean is not None
    layer = kind(*shape, **options).train(training)
    tensors = {"weight": weight, "bias": bias, "running_mean": mean, "running_var": var}
    for name, tensor in tensors.items():
        if tensor is not None and name in ("weight", "bias"):
            setattr(layer, name, nn.Parameter(tensor.detach().clone()))
        elif hasattr(layer, name):
            setattr(layer, name, copied(tensor))
    return layer, tensors


def batch_norm(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    options = {"eps": eps, "momentum": momentum}
    return layer_with(BatchNorm, (x.shape[1],), options, weight, bias, mean, var, training)


def native_batch_norm(x, weight, bias, *others):
    *running, training, momentum, eps = others  # without running statistics, or with them
    return batch_norm(x, *(running or (None, None)), weight, bias, training, momentum, eps)


def batch_norm_with_update(x, weight, bias, mean, var, momentum, eps):
    return batch_norm(x, mean, var, weight, bias, True, momentum, eps)


def instance_norm(
    x, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True,
    momentum=0.1, eps=1e-5,
):  # fmt: skip
    options, running = {"eps": eps, "momentum": momentum}, (running_mean, running_var)
    shape, learned = (x.shape[1],), (weight, bias)
    return layer_with(InstanceNorm, shape, options, *learned, *running, use_input_stats)


def group_norm(x, num_groups, weight=None, bias=None, eps=1e-5):
    return layer_with(GroupNorm, (num_groups, x.shape[1]), {"eps": eps}, weight, bias)


def native_group_norm(x, weight, bias, examples, channels, positions, groups, eps):
    return group_norm(x, groups, weight, bias, eps)


def layer_norm(x, normalized_shape, weight=None, bias=None, eps=1e-5):
    return layer_with(LayerNorm, (normalized_shape,), {"eps": eps}, weight, bias)


def rms_norm(x, normalized_shape, weight=None, eps=None):
    return layer_with(RMSNorm, (normalized_shape,), {"eps": eps}, weight, None)


OPERATORS = {
    "nn.functional.batch_norm": batch_norm,
    "native_batch_norm": native_batch_norm,
    "_native_batch_norm_legit": native_batch_norm,
    "_batch_norm_with_update": batch_norm_with_update,
    "nn.functional.instance_norm": instance_norm,
    "nn.functional.group_norm": group_norm,
    "native_group_norm": native_group_norm,
    "nn.functional.layer_norm": layer_norm,
    "native_layer_norm": layer_norm,
    "nn.functional.rms_norm": rms_norm,
}


def largest_term(layer: nn.Module) -> float:
    """What the gradient of a norm over a single value is the difference of, per cotangent.

    Such a gradient is 0, up to the rounding of that.
    """
    if not isinstance(layer, LayerNorm) or math.prod(layer.normalized_shape) > 1 or not layer.eps:
        return 1.0
    weight = 1.0 if layer.weight is None else layer.weight.abs().max().item()
    return max(1.0, weight * layer.eps**-0.5)


def check_operator(op, sample, strides=copied) -> None:
    x, args, options = copied((sample.input, sample.args, sample.kwargs))
    if x.dim() < 2 and "batch_norm" in op.name:  # no axis of examples: PyTorch's layer refuses, too
        for layer in (nn.BatchNorm1d(5).to(x.dtype), BatchNorm(5).to(x.dtype)):
            with pytest.raises(ValueError, match="expect"):
                layer(x)
        return
    layer, tensors = OPERATORS[op.name](x, *args, **options)
    ours = strides(x)
    y, expected = layer(ours), op(x, *args, **options)
    expected = expected if isinstance(expected, Tensor) else expected[0]
    close(y, expected, ulps_of(x.dtype))
    learned = [name for name in ("weight", "bias") if tensors[name] is not None]
    inputs = [ours, *(getattr(layer, name) for name in learned)]
    theirs = [x, *(tensors[name] for name in learned)]
    same_gradients(y, inputs, expected, theirs, ulps_of(x.dtype) * largest_term(layer))
    for name in ("running_mean", "running_var"):
        if tensors[name] is not None:
            close(getattr(layer, name), tensors[name], ulps_of(x.dtype))


@each_dtype
@pytest.mark.parametrize("name", OPERATORS)
def test_operator(name, dtype):
    known = operators(name)
    assert known
    for op in known:
        samples = op.reference_inputs if ALL else op.sample_inputs
        for sample in samples("cpu", dtype, requires_grad=True):
            check_operator(op, sample)
            if ALL:
                check_operator(op, sample, strides=interleaved)


@pytest.mark.parametrize("name", OPERATORS)
def test_samples_find_a_fault(name, monkeypatch):
    fault = mutants.rms_eps_outside_the_root if "rms" in name else mutants.eps_outside_the_root
    monkeypatch.setattr(norm, "standardize", fault)
    with pytest.raises(AssertionError):
        test_operator(name, torch.float64)
