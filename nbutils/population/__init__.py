"""Many networks trained at once: the same code with a model axis in front.

A sweep over seeds and settings trains M small networks of one architecture. One after the other,
the time goes into starting operations, not into arithmetic. Here the networks run side by side, and
the result is that of M separate training loops. `train` and `evaluate` take networks; `sweep` and
`at_best_rate` compare kinds of networks, each at its own best learning rate. Chapter 02 writes the
sweep out.
"""

from nbutils.population.model import Population
from nbutils.population.sweeps import at_best_rate, sweep
from nbutils.population.training import evaluate, train

__all__ = ["Population", "at_best_rate", "evaluate", "sweep", "train"]
