"""Print what the machinery costs, as a Markdown table: `make bench`.

Both sides of a row run in turns in this one process, on one thread; times are medians.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import nn
from torch.nn import functional

from nbutils import layers
from nbutils.data import digits, minibatches
from nbutils.networks import CNN, MLP
from nbutils.population import train
from nbutils.probes import measure

ROUNDS = 7


def seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def side_by_side(
    first: Callable[[], object], second: Callable[[], object], rounds: int = ROUNDS
) -> tuple[float, float]:
    """Median seconds of both, run in turns after one warm-up each."""
    pairs = [(seconds(first), seconds(second)) for _ in range(rounds + 1)][1:]
    return median(a for a, _ in pairs), median(b for _, b in pairs)


def row(name: str, one: str, other: str, first: float, second: float) -> None:
    print(
        f"| {name} | {one} {first * 1e3:.3g} | {other} {second * 1e3:.3g} | {first / second:.2f} |"
    )


def loop(net: nn.Module, x: torch.Tensor, y: torch.Tensor, steps: int, batch_size: int) -> None:
    """A plain training loop of one network."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3)
    for batch in minibatches(len(x), batch_size, steps, seed=0):
        loss = functional.cross_entropy(net(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def with_torch_norms(net: nn.Module) -> nn.Module:
    """The same network with PyTorch's own BatchNorm: the fastest loop to compare with."""
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, layers.BatchNorm):
                kind = nn.BatchNorm2d if isinstance(net, CNN) else nn.BatchNorm1d
                setattr(module, name, kind(child.num_features))
    return net


class Foreign(nn.BatchNorm1d):
    """A reader's norm: population does not know it, and maps it."""


def bench_population(
    name: str, build: Callable[[int], nn.Module], images: bool, steps: int = 50, networks: int = 16
) -> None:
    x, y, _, _ = digits(images=images)
    nets = [with_torch_norms(build(seed)) for seed in range(networks)]
    options = {"steps": steps, "batch_size": 32, "lr": 1e-3, "seeds": range(networks)}
    # One network stands for the loop over all of them: their times add up.
    looped, trained = side_by_side(
        lambda: loop(nets[0], x, y, steps, batch_size=32),
        lambda: train(nets, x, y, progress=False, **options),
    )
    per_loop, per_population = looped / steps, trained / steps / networks
    row(f"{name}, a network-step", "loop", "population", per_loop, per_population)


def bench_call(depth: int = 10, networks: int = 16) -> None:
    """What a call costs before its first step, beside a step."""
    x, y, _, _ = digits()
    nets = [MLP(depth, norm="batch", seed=seed) for seed in range(networks)]

    def run(steps: int) -> None:
        train(
            nets, x, y, steps=steps, batch_size=32, lr=1e-3, seeds=range(networks), progress=False
        )

    fixed, longer = side_by_side(lambda: run(0), lambda: run(20))
    row(
        f"a call for {networks} MLPs of depth {depth}",
        "fixed",
        "a step",
        fixed,
        (longer - fixed) / 20,
    )


def bench_probe(name: str, net: nn.Module) -> None:
    x, y = (part[:128] for part in digits()[:2])

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(logits, y)

    times = side_by_side(lambda: measure(net, x, loss), lambda: loss(net(x)).backward(), rounds=25)
    row(f"probe of {name}, batch 128", "measure", "forward + backward", *times)


def bench_layer(ours: nn.Module, theirs: nn.Module, *shape: int) -> None:
    x, cotangent = torch.randn(shape, requires_grad=True), torch.randn(shape)
    times = side_by_side(
        lambda: ours(x).backward(cotangent), lambda: theirs(x).backward(cotangent), rounds=200
    )
    name = f"{type(ours).__name__} {shape}, forward + backward"
    row(name, "from scratch", "torch.nn", *times)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, median milliseconds of runs in turns\n")
    print("| what | first (ms) | second (ms) | first / second |")
    print("|---|---|---|---|")
    mlp = "training MLP depth 30 width 32"
    bench_population(mlp, lambda seed: MLP(30, init="he", seed=seed), images=False)
    bench_population(
        f"{mlp}, BatchNorm", lambda seed: MLP(30, norm="batch", seed=seed), images=False
    )
    bench_population(
        "training CNN depth 4 width 8, BatchNorm",
        lambda seed: CNN(4, 8, norm="batch", seed=seed),
        images=True,
    )
    bench_population(
        "training MLP depth 30 width 32, a reader's BatchNorm",
        lambda seed: MLP(30, norm=Foreign, seed=seed),
        images=False,
    )
    bench_call()
    bench_probe("MLP depth 30 width 32, BatchNorm", MLP(30, norm="batch"))
    bench_probe("MLP depth 30 width 256", MLP(30, 256))
    bench_layer(layers.BatchNorm(256), nn.BatchNorm1d(256), 64, 256)
    bench_layer(layers.BatchNorm(32), nn.BatchNorm2d(32), 32, 32, 8, 8)
    bench_layer(layers.LayerNorm(64), nn.LayerNorm(64), 16, 32, 64)
    bench_layer(layers.RMSNorm(64), nn.RMSNorm(64), 16, 32, 64)
    bench_layer(layers.GroupNorm(4, 32), nn.GroupNorm(4, 32), 32, 32, 8, 8)
    bench_layer(layers.InstanceNorm(32), nn.InstanceNorm2d(32), 32, 32, 8, 8)


if __name__ == "__main__":
    main()
