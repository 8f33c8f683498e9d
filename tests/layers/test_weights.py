"""The norms of weights are PyTorch's parametrizations, and planted mutants are not."""

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.autograd.gradcheck import GradcheckError
from torch.nn import functional
from torch.nn.utils import parametrizations
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations

from nbutils.norm import standardize
from nbutils.weights import SpectralNorm, WeightNorm, WeightStandardization

LAYERS = {
    "Linear": lambda: nn.Linear(6, 4),
    "Conv1d": lambda: nn.Conv1d(3, 4, 3),
    "Conv2d": lambda: nn.Conv2d(3, 4, 3),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(3, 4, 3),
}
INPUTS = {
    "Linear": (5, 6),
    "Conv1d": (5, 3, 7),
    "Conv2d": (5, 3, 7, 7),
    "ConvTranspose2d": (5, 3, 7, 7),
}
each_layer = pytest.mark.parametrize("kind", LAYERS)


def pair(kind, ours, theirs, dtype=torch.float64):
    """One layer twice, with our parametrization and with PyTorch's, from the same random state."""
    torch.manual_seed(0)
    layer = LAYERS[kind]().to(dtype)
    twins = []
    for parametrized in (ours, theirs):
        torch.manual_seed(1)
        twins.append(parametrized(copy.deepcopy(layer)))
    return layer, *twins


def with_ours(make):
    """What puts a parametrization of ours on a layer; `make` gets its weight."""

    def parametrized(layer):
        register_parametrization(layer, "weight", make(layer.weight))
        return layer

    return parametrized


def check_equal(kind, ours, theirs):
    """Three steps of training and evaluation: outputs, gradients, state; checkpoints both ways."""
    _, a, b = pair(kind, ours, theirs)
    for step in range(3):
        x = torch.randn(INPUTS[kind], dtype=torch.float64)
        for training in (True, False):
            outputs = [net.train(training)(x) for net in (a, b)]
            torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
        for net, y in zip((a, b), outputs, strict=True):
            net.zero_grad()
            (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view(y.shape)).sum().backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter -= 0.1 / (step + 1) * parameter.grad / parameter.grad.norm()
        for p, q in zip(a.parameters(), b.parameters(), strict=True):
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-10, atol=1e-11)
        assert a.state_dict().keys() == b.state_dict().keys()
        for name, value in a.state_dict().items():
            torch.testing.assert_close(value, b.state_dict()[name], rtol=1e-10, atol=1e-11)
    for source, target in ((a, b), (b, a)):
        with torch.no_grad():
            next(source.parameters()).add_(0.3)
        target.load_state_dict(source.state_dict())
        torch.testing.assert_close(source.eval()(x), target.eval()(x), rtol=1e-12, atol=1e-12)


@each_layer
@pytest.mark.parametrize("dim", [0, 1, -2, -1, None])
def test_weight_norm_is_pytorchs(kind, dim):
    check_equal(
        kind,
        with_ours(lambda weight: WeightNorm(dim)),
        lambda layer: parametrizations.weight_norm(layer, dim=dim),
    )


@each_layer
@pytest.mark.parametrize("iterations", [1, 3])
def test_spectral_norm_is_pytorchs(kind, iterations):
    dim = 1 if "Transpose" in kind else 0
    check_equal(
        kind,
        with_ours(lambda weight: SpectralNorm(weight, iterations, dim)),
        lambda layer: parametrizations.spectral_norm(layer, n_power_iterations=iterations),
    )


def check_standardized(make, eps=1e-5):
    """Against F.batch_norm, with output units as its channels."""
    for shape in ((4, 6), (4, 3, 3, 3)):
        weight = (5 + 2 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
        columns = weight.flatten(1).T
        expected = functional.batch_norm(columns, None, None, training=True, eps=eps).T.view(shape)
        torch.testing.assert_close(make(weight), expected, rtol=1e-12, atol=1e-12)
        torch.autograd.gradcheck(make, weight)


def test_weight_standardization():
    check_standardized(WeightStandardization())
    check_standardized(WeightStandardization(eps=0.1), eps=0.1)
    weight = torch.randn(4, 3, 3, 3)
    scaled, plain = WeightStandardization(scaled=True), WeightStandardization()
    torch.testing.assert_close(scaled(weight) * 27**0.5, plain(weight))


def test_scaled_standardization_keeps_the_mean_square():
    torch.manual_seed(0)
    layer = nn.Linear(2000, 2000, bias=False)
    nn.init.normal_(layer.weight)
    register_parametrization(layer, "weight", WeightStandardization(scaled=True))
    assert layer(torch.randn(200, 2000)).square().mean().item() == pytest.approx(1, rel=0.02)


@each_layer
@pytest.mark.parametrize(
    "make", [lambda w: WeightNorm(), lambda w: WeightStandardization(), SpectralNorm]
)
def test_travels_and_comes_off(kind, make):
    torch.manual_seed(0)
    layer = with_ours(make)(LAYERS[kind]())
    x = torch.randn(INPUTS[kind])
    layer.eval()
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    with pytest.raises(RuntimeError, match="Serialization of parametrized modules"):
        pickle.dumps(layer)  # as PyTorch's: state_dict is the way
    half = copy.deepcopy(layer).to(torch.bfloat16)
    assert half(x.bfloat16()).dtype == torch.bfloat16
    remove_parametrizations(layer, "weight")
    torch.testing.assert_close(layer(x), expected)


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 99))
def test_spectral_norm_finds_the_largest_singular_value(rows, columns, seed):
    generator = torch.Generator().manual_seed(seed)
    u, _, vh = torch.linalg.svd(
        torch.randn(rows, columns, generator=generator, dtype=torch.float64), full_matrices=False
    )
    values = 0.5 ** torch.arange(min(rows, columns), dtype=torch.float64)  # a clear gap
    weight = u * (3 * values) @ vh
    norm = SpectralNorm(weight, n_power_iterations=40)
    assert torch.linalg.matrix_norm(norm(weight), 2).item() == pytest.approx(1, abs=1e-9)


def check_eval_keeps_vectors(make):
    weight = torch.randn(4, 6)
    norm = make(weight).eval()
    before = norm._u.clone()
    norm(torch.randn(4, 6))
    assert torch.equal(norm._u, before)


def test_eval_keeps_the_vectors():
    check_eval_keeps_vectors(SpectralNorm)


def check_two_forwards(make):
    """loss = D(real) - D(fake): the second pass must not disturb the first one's backward."""
    weight = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    norm = make(weight)
    (norm(weight).sum() - norm(weight).square().sum()).backward()
    assert weight.grad.isfinite().all()


def test_two_forward_passes_and_one_backward():
    check_two_forwards(SpectralNorm)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: WeightNorm(2)(torch.ones(3, 1), torch.ones(3, 4)), r"dim=2 .* -2 to 1"),
        (lambda: WeightStandardization()(torch.ones(3, 1)), "at least 2 weights per output"),
        (lambda: WeightStandardization()(torch.ones(3)), "at least 2 weights per output"),
        (lambda: SpectralNorm(torch.ones(3)), "at least 2 axes"),
        (lambda: SpectralNorm(torch.ones(3, 2), dim=-3), "expected -2 to 1"),
        (lambda: SpectralNorm(torch.ones(3, 2), 0), "n_power_iterations must be at least 1"),
    ],
)
def test_errors(make, words):
    with pytest.raises(ValueError, match=words):
        make()


# Mutants: one mistake each, which a check that it names must catch.


class LengthPerInput(WeightNorm):
    def __init__(self, dim=0):
        super().__init__(1)


class LearnsNoLength(WeightNorm):
    def forward(self, g, v):
        return super().forward(g.detach(), v) + 0 * g


class DetachedLength(WeightNorm):
    def _norm(self, v):
        return super()._norm(v).detach()


class UnbiasedStandardization(WeightStandardization):
    def forward(self, weight):
        n = weight[0].numel()
        return super().forward(weight) * ((n - 1) / n) ** 0.5


class NotCentred(WeightStandardization):
    def forward(self, weight):
        return standardize(weight, range(1, weight.dim()), self.eps, center=False)[0]


class OverTheLayer(WeightStandardization):
    def forward(self, weight):
        return standardize(weight, range(weight.dim()), self.eps)[0]


class DetachedStatistics(WeightStandardization):
    def forward(self, weight):
        _, mean, var = standardize(weight.detach(), range(1, weight.dim()), self.eps)
        return (weight - mean) * torch.rsqrt(var + self.eps)


class IteratesInEval(SpectralNorm):
    def forward(self, weight):
        self._iterate(self._matrix(weight), self.n_power_iterations)
        return super().forward(weight)


class DetachedSigma(SpectralNorm):
    def forward(self, weight):
        y = super().forward(weight)
        return weight * (y / weight).detach().flatten()[0]


class Frobenius(SpectralNorm):
    def forward(self, weight):
        super().forward(weight)
        return weight / weight.norm()


class NeverIterates(SpectralNorm):
    def _iterate(self, matrix, times):
        super()._iterate(matrix, times if times == 15 else 0)


class SharedVectors(SpectralNorm):
    def forward(self, weight):
        matrix = self._matrix(weight)
        if self.training:
            self._iterate(matrix, self.n_power_iterations)
        return weight / (self._u @ (matrix @ self._v))


weight_norm = parametrizations.weight_norm
spectral_norm = parametrizations.spectral_norm
MUTANTS = [
    *(
        (mutant, lambda m: check_equal("Conv2d", with_ours(lambda w: m()), weight_norm))
        for mutant in (LengthPerInput, LearnsNoLength, DetachedLength)
    ),
    *(
        (mutant, lambda m: check_standardized(m()))
        for mutant in (UnbiasedStandardization, NotCentred, OverTheLayer, DetachedStatistics)
    ),
    (IteratesInEval, check_eval_keeps_vectors),
    (SharedVectors, check_two_forwards),
    *(
        (mutant, lambda m: check_equal("Conv2d", with_ours(m), spectral_norm))
        for mutant in (DetachedSigma, Frobenius, NeverIterates)
    ),
]


@pytest.mark.parametrize(
    ("mutant", "check"), MUTANTS, ids=lambda value: getattr(value, "__name__", "")
)
def test_mutant_is_caught(mutant, check):
    expected = (AssertionError, GradcheckError)
    if mutant in (SharedVectors, LengthPerInput):
        expected = (*expected, RuntimeError)  # in-place changes; shapes that do not fit
    with pytest.raises(expected):
        check(mutant)
