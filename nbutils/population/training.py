"""Train and evaluate many networks; a network that diverges is marked, not averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from nbutils.data import minibatches
from nbutils.population.checks import check_data, per_network, tag_columns
from nbutils.population.model import Population
from nbutils.population.optimizer import Optimizer


def train(
    nets: Sequence[torch.nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    batch_size: int,
    lr: float | Sequence[float],
    optimizer: str = "sgd",
    seeds: Sequence[int],
    index: Tensor | None = None,
    tags: Sequence[dict] | None = None,
    every: int | None = None,
    schedule: Callable[[int], float] | None = None,
    weight_decay: float = 0.0,
    clip: float | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train M classifiers in place on cross-entropy, as M separate loops would.

    nets: M networks of one architecture, of any kind; see `Population`.
    x, y: examples (N, ...) and int64 labels (N,) for all, or (M, N, ...) and (M, N), data for each.
    index: int64 (M, n), the rows of shared x and y that each network trains on: its own split.
    lr: one learning rate, or one per network. `schedule(step)` multiplies it, step from 0.
    optimizer: "sgd", "momentum" (0.9) or "adam", as `torch.optim.SGD` and `Adam` define them, with
    their `weight_decay`. clip: largest global gradient norm of a network; each has its own.
    seeds: M integers; seed m gives the minibatch order of network m (`data.minibatches`).
    tags: M dicts, copied into the rows of their network.

    Returns one row per network and recorded step: network, step, loss, accuracy, diverged, and the
    tags. Loss and accuracy are those of the minibatch, after `step` updates. Every `every`-th step
    is recorded (by default about 100 of them), and the last. From the first recorded step on whose
    loss or logits are not finite, a network has diverged: loss and accuracy are NaN.

    What was trained is written into the networks, also when an exception or an interrupt ends it
    early. Their train or eval mode stays; a network in eval mode is trained in train mode. The
    global random number generator does not move: dropout draws from the sum of `seeds`. A network
    that diverges does not touch the others.
    While it trains, denormal floats count as 0 (`torch.set_flush_denormal`): vanishing gradients of
    that size cannot move a weight, and slow many processors down. Then the setting is put back.
    Raises TypeError and ValueError for input that does not fit, before anything is trained.
    """
    nets = list(nets)
    population = population_of(nets, x, y, index)
    count = len(nets)
    rates = per_network("lr", [lr] * count if isinstance(lr, (int, float)) else lr, count)
    seeds = per_network("seeds", seeds, count)
    tags = tag_columns(tags, count)
    if every is None:
        every = max(1, steps // 100)
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}.")
    if not population.model.training:
        population.model.train()
    optimize = Optimizer(population.model, count, optimizer, rates, weight_decay, clip)
    run = Run(population, optimize, x, y, index, steps, batch_size, seeds, schedule)
    recorded, scores = [], []
    bar = tqdm(range(steps), desc=f"training {count} networks", leave=False, disable=not progress)
    try:
        with apart(seeds):
            for step in bar:
                logits, labels, loss = run.update(step)
                if step % every == 0 or step == steps - 1:
                    recorded.append(step)
                    scores.append(torch.stack([loss, *accuracy_of(logits, labels)]))
    finally:
        population.write_back()

    rows = pd.DataFrame({"network": range(count)}).merge(
        pd.DataFrame({"step": recorded}, dtype="int64"), how="cross"
    )
    values = torch.stack(scores, dim=2) if scores else torch.zeros(3, count, 0)
    return _marked(rows, *values).join(tags, on="network")


@torch.no_grad()
def evaluate(
    nets: Sequence[torch.nn.Module],
    x: Tensor,
    y: Tensor,
    *,
    train_mode: bool = False,
    index: Tensor | None = None,
    tags: Sequence[dict] | None = None,
) -> pd.DataFrame:
    """Loss and accuracy of M classifiers on all of x and y, or on the rows `index` of each.

    In eval mode; with train_mode=True in train mode, where BatchNorm normalizes by the statistics
    of x. x, y, index as for `train`. Returns one row per network: network, loss, accuracy,
    diverged, and the tags; a network whose loss or logits are not finite has diverged, and its loss
    and accuracy are NaN. The networks, their modes and their running statistics stay as they are,
    and so does the global random number generator. Errors as for `train`.
    """
    nets = list(nets)
    population = population_of(nets, x, y, index)
    tags = tag_columns(tags, len(nets))
    with torch.random.fork_rng(devices=[]):
        scores = score(population, x, y, index, train_mode)
    rows = pd.DataFrame({"network": range(len(nets))})
    return _marked(rows, *scores).join(tags, on="network")


def population_of(
    nets: Sequence[torch.nn.Module], x: Tensor, y: Tensor, index: Tensor | None
) -> Population:
    """The networks as one model, after a look at the data."""
    check_data(len(nets), {p.dtype for net in nets[:1] for p in net.parameters()}, x, y, index)
    return Population(nets, x[0] if y.dim() == 2 else x)


class Run:
    """The minibatches of each network, and the updates that they lead to."""

    def __init__(
        self,
        population: Population,
        optimize: Optimizer,
        x: Tensor,
        y: Tensor,
        index: Tensor | None,
        steps: int,
        batch_size: int,
        seeds: Sequence[int],
        schedule: Callable[[int], float] | None,
    ) -> None:
        self.population, self.optimize, self.schedule = population, optimize, schedule
        self.x, self.y = x, y
        rows = y.shape[-1] if index is None else index.shape[1]
        drawn = [minibatches(rows, batch_size, steps, seed) for seed in seeds]
        self.order = torch.stack(drawn, dim=1)  # (steps, M, B)
        if index is not None:
            self.order = index.expand(steps, *index.shape).gather(2, self.order)
        self.networks = torch.arange(len(drawn)).unsqueeze(1)

    def update(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, labels and losses (M,) of a minibatch before the update that it leads to."""
        chosen = self.order[step] if self.y.dim() == 1 else (self.networks, self.order[step])
        labels = self.y[chosen]
        logits = self.population(self.x[chosen])
        loss = loss_of(logits, labels)
        # Each network's loss depends on its own parameters only: the sum separates.
        self.optimize.step(loss.sum(), 1.0 if self.schedule is None else self.schedule(step))
        return logits.detach(), labels, loss.detach()


@contextmanager
def apart(seeds: Sequence[int]) -> Iterator[None]:
    """Random numbers from `seeds`, denormal floats as 0; both are put back afterwards."""
    # PyTorch cannot say whether it flushes. A denormal float can: it arrives as 0.
    before = torch.tensor([1e-39], dtype=torch.float32).item() == 0.0
    torch.set_flush_denormal(True)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(sum(seeds) % 2**63)
            yield
    finally:
        torch.set_flush_denormal(before)


def score(
    population: Population, x: Tensor, y: Tensor, index: Tensor | None, train_mode: bool = False
) -> Tensor:
    """Loss, accuracy and whether all is finite, (3, M), on all of the data of each network."""
    count = len(population.nets)
    population.model.train(train_mode)
    if index is not None:
        x, y = x[index], y[index]
    elif y.dim() == 1:
        x, y = x.expand(count, *x.shape), y.expand(count, -1)
    logits = population(x)
    return torch.stack([loss_of(logits, y), *accuracy_of(logits, y)])


def loss_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of each network: (M, B, K) and (M, B) to (M,)."""
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none")
    return loss.view(labels.shape).mean(dim=1)


def accuracy_of(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy of each network, and 1 where all its logits are finite."""
    right = (logits.argmax(dim=-1) == labels).to(logits.dtype).mean(dim=1)
    return right, logits.isfinite().flatten(1).all(dim=1).to(logits.dtype)


def diverged_of(loss: Tensor, finite: Tensor) -> Tensor:
    """Which networks have no finite loss, or logits that are not finite."""
    return ~(loss.isfinite() & finite.bool())


def _marked(rows: pd.DataFrame, loss: Tensor, accuracy: Tensor, finite: Tensor) -> pd.DataFrame:
    """Add the scores, (M,) or (M, steps), network by network; NaN from divergence on."""
    diverged = diverged_of(loss, finite)
    if diverged.dim() == 2 and diverged.shape[1]:
        diverged = diverged.cummax(dim=1).values
    for name, values in (("loss", loss), ("accuracy", accuracy)):
        rows[name] = values.double().masked_fill(diverged, torch.nan).flatten().numpy()
    rows["diverged"] = diverged.flatten().numpy()
    return rows
