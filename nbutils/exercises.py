"""Checks an answer and names the likely mistake; the folded solution goes through the same check.

An exercise is defined in `nbutils/questions`, out of the reader's sight, by the right answer and
the wrong answers that people give. An exercise that would accept one of its own mistakes cannot be
defined.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from IPython.display import Markdown, display
from torch import Tensor

Answer = float | Tensor | Callable[..., float | Tensor]
RIGHT = "Right."


def check(name: str, answer: Answer | None) -> None:
    """Say of an answer to exercise `name` whether it is untouched (`...`), right, or wrong and why.

    Raises KeyError for an unknown exercise.
    """
    _say(name, find(name).remark(answer))


def solve(name: str, answer: Answer) -> None:
    """The same check for the book's solution; raises AssertionError if it does not pass."""
    remark = find(name).remark(answer)
    if remark != RIGHT:
        raise AssertionError(f"the solution of exercise {name} does not pass: {remark}")
    _say(name, remark)


def find(name: str) -> Exercise:
    """Exercise "3.2" is the second of chapter 3. Raises KeyError for one that does not exist."""
    try:
        chapter = int(name.partition(".")[0])
        question = import_module(f"nbutils.questions.chapter{chapter:02d}").QUESTIONS[name]
    except (ValueError, ModuleNotFoundError, KeyError):
        raise KeyError(f"there is no exercise {name!r}; exercises are named like '1.2'") from None
    return Exercise(name, **question)


def _say(name: str, remark: str) -> None:
    display(Markdown(f"**Exercise {name}.** {remark}"))


@dataclass(frozen=True)
class Exercise:
    """One question: the right answer, the mistakes and what to say of each, how close is right.

    `right` is a number, a tensor, or a function; functions are compared by their results on
    `cases`, a list of argument tuples. Answers agree within `rel` of the right one; values near
    zero, within 1e-6 of its largest (and 1e-8).

    Raises ValueError if a mistake passes as right, or if two functions come without cases.
    """

    name: str
    right: Answer
    mistakes: Sequence[tuple[Answer, str]] = ()
    cases: Sequence[tuple] = ()
    rel: float = 1e-4

    def __post_init__(self) -> None:
        if callable(self.right) and not self.cases:
            raise ValueError(
                f"exercise {self.name}: a function is compared on cases; give at least one"
            )
        for wrong, remark in self.mistakes:
            if self._same(wrong, self.right):
                raise ValueError(
                    f"exercise {self.name}: the mistake {remark!r} passes as the right answer"
                )

    def remark(self, answer: Answer | None) -> str:
        """What to say of an answer."""
        if self._untouched(answer):
            return "Untouched: replace the `...` by your answer and run the cell again."
        if callable(self.right) != callable(answer):
            kind = "a function" if callable(self.right) else "a number or a tensor"
            return f"Expected {kind}, got `{type(answer).__name__}`."
        try:
            if self._same(answer, self.right):
                return RIGHT
            for wrong, remark in self.mistakes:
                if self._same(answer, wrong):
                    return f"Not yet: {remark}"
            return f"Not yet: {self._difference(answer)}"
        except Exception as error:  # what a reader's function raises is news for the reader
            return f"Your answer raised `{type(error).__name__}: {error}`."

    def _untouched(self, answer: Answer | None) -> bool:
        if not callable(answer) or not self.cases:
            return answer is None or answer is ...
        try:
            return answer(*self.cases[0]) is ...
        except Exception:  # it is touched, then; `remark` calls it again and says what it raised
            return False

    def _values(self, answer: Answer) -> list[Tensor]:
        results = [answer(*case) for case in self.cases] if callable(answer) else [answer]
        return [torch.as_tensor(result, dtype=torch.float64).detach() for result in results]

    def _same(self, one: Answer, other: Answer) -> bool:
        pairs = zip(self._values(one), self._values(other), strict=True)
        return all(a.shape == b.shape and self._close(a, b) for a, b in pairs)

    def _close(self, got: Tensor, right: Tensor, rel: float | None = None) -> bool:
        """Equal within the tolerance; near zero, within what single precision keeps of the rest."""
        finite = right[right.isfinite()].abs()
        near_zero = 1e-8 + 1e-6 * (finite.max().item() if len(finite) else 0.0)
        rel = self.rel if rel is None else rel
        return torch.allclose(got, right, rtol=rel, atol=near_zero, equal_nan=True)

    def _difference(self, answer: Answer) -> str:
        """A hint at what is wrong that does not give the right answer away."""
        for got, right in zip(self._values(answer), self._values(self.right), strict=True):
            if got.shape != right.shape:
                return f"expected shape {tuple(right.shape)}, got {tuple(got.shape)}."
            if not self._close(got, right):
                return self._hint(got, right)
        raise AssertionError("called for an answer that differs")

    def _hint(self, got: Tensor, right: Tensor) -> str:
        if right.isfinite().all() and not got.isfinite().all():
            return "your answer is not finite: is something divided by zero, or too large to exp?"
        if (got * right <= 0).all() and (got * right < 0).any():
            return "look at the sign."
        agree = sum(self._close(*pair) for pair in zip(got.flatten(), right.flatten(), strict=True))
        if agree:
            return f"{agree} of {got.numel()} values are right; what do the others have in common?"
        if self._close(got, right, rel=0.01):
            return "close, but not close enough: was something rounded, or a small term left out?"
        size, wanted = got.norm().item(), right.norm().item()
        if math.isclose(size, wanted, rel_tol=self.rel):
            return "the size is right as a whole, the single values are not: look at their order."
        return f"your answer is too {'large' if size > wanted else 'small'}."
