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


def bench_population(steps: int = 50, networks: int = 16, batch_size: int = 32) -> None:
    vectors, images = digits(), digits(images=True)
    for name, build, data in (
        ("MLP depth 30 width 32, no norm", lambda s: MLP(30, init="he", seed=s), vectors),
        ("MLP depth 30 width 32, BatchNorm", lambda s: MLP(30, norm="batch", seed=s), vectors),
        ("MLP depth 80 width 32, ReZero", lambda s: MLP(80, residual="rezero", seed=s), vectors),
        ("CNN depth 4 width 8, BatchNorm", lambda s: CNN(4, 8, norm="batch", seed=s), images),
    ):
        nets = [with_torch_norms(build(seed)) for seed in range(networks)]
        x, y = data.x_train, data.y_train
        options = {"steps": steps, "batch_size": batch_size, "progress": False}
        # One network stands for the loop over all: their time adds up.
        looped, trained = side_by_side(
            lambda: loop(nets[0], x, y, steps, batch_size),
            lambda: train(nets, x, y, lr=1e-3, seeds=range(networks), **options),
        )
        per_loop, per_population = looped / steps, trained / steps / networks
        row(f"training {name}, a network-step", "loop", "population", per_loop, per_population)


def bench_probe() -> None:
    x, y = (part[:128] for part in digits()[:2])
    for name, net in (
        ("MLP depth 30, BatchNorm", MLP(30, norm="batch")),
        ("MLP depth 30 width 256", MLP(30, 256)),
    ):

        def loss(logits: torch.Tensor) -> torch.Tensor:
            return functional.cross_entropy(logits, y)

        probe, plain = side_by_side(
            lambda: measure(net, x, loss), lambda: loss(net(x)).backward(), rounds=25
        )
        row(f"probe of {name}, batch 128", "measure", "forward + backward", probe, plain)


def bench_layers() -> None:
    vectors, images, tokens = (
        torch.randn(64, 256),
        torch.randn(32, 32, 8, 8),
        torch.randn(16, 32, 64),
    )
    for name, ours, theirs, x in (
        ("BatchNorm (64, 256)", layers.BatchNorm(256), nn.BatchNorm1d(256), vectors),
        ("BatchNorm (32, 32, 8, 8)", layers.BatchNorm(32), nn.BatchNorm2d(32), images),
        ("LayerNorm (16, 32, 64)", layers.LayerNorm(64), nn.LayerNorm(64), tokens),
        ("RMSNorm (16, 32, 64)", layers.RMSNorm(64), nn.RMSNorm(64), tokens),
        ("GroupNorm (32, 32, 8, 8)", layers.GroupNorm(4, 32), nn.GroupNorm(4, 32), images),
        ("InstanceNorm (32, 32, 8, 8)", layers.InstanceNorm(32), nn.InstanceNorm2d(32), images),
    ):
        x.requires_grad_()
        cotangent = torch.randn_like(x)
        times = side_by_side(
            lambda: ours(x).backward(cotangent), lambda: theirs(x).backward(cotangent), rounds=200
        )
        row(f"{name}, forward + backward", "from scratch", "torch.nn", *times)


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, one thread, median milliseconds of runs in turns\n")
    print("| what | first (ms) | second (ms) | first / second |")
    print("|---|---|---|---|")
    bench_population()
    bench_probe()
    bench_layers()


if __name__ == "__main__":
    main()
