"""A claim meets its measurement: interval over seeds, verdict, and a card that shows both.

The claims live in `book/claims.yml`; the page "Ledger of claims" gathers what the chapters
measured. A check that has fallen is not mended by a wider bound: it waits in `book/awaiting.yml`
until it is understood, and the book says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache
from html import escape
from pathlib import Path

import numpy as np
import yaml
from IPython import get_ipython
from IPython.display import display

from .intervals import Interval, student

MIME = "application/vnd.nbutils.evidence+json"
VERDICTS = {
    "holds": "holds",
    "false": "false",
    "depends": "depends on what is left out",
    "misattributed": "misattributed",
    "not-testable": "not testable",
}
UNDER_REVIEW, PASSES_AGAIN = "under review", "passes again"  # states of a check on the list


class EvidenceError(AssertionError):
    """A measurement that does not bear out what the chapter says of a claim."""


@dataclass(frozen=True)
class Verdict:
    """What `check` found; displays as a card in a notebook and feeds the ledger."""

    claim: str
    part: str | None
    anchor: str
    statement: str
    prediction: str
    measured: float
    low: float
    high: float
    n: int
    exact: bool
    review: str = ""  # UNDER_REVIEW or PASSES_AGAIN, if the check is in awaiting.yml

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, object]:
        return {"text/plain": str(self), "text/html": _card(self), MIME: asdict(self)}

    def __str__(self) -> str:
        said = f"{self.claim}: {self.statement}: {describe(self)}; predicted {self.prediction}"
        return f"{said}; {self.review}" if self.review else said


@cache
def claims() -> dict[str, dict]:
    """All claims by id, from `claims.yml`."""
    return {entry["id"]: entry for entry in _read("claims.yml")}


@cache
def awaiting() -> list[dict]:
    """The checks that fell and are not understood yet, from `awaiting.yml`."""
    return _read("awaiting.yml")


def _read(name: str) -> list[dict]:
    """A list from the file beside this one (an installed nbutils), or in `book/` of a checkout."""
    here = Path(__file__).resolve().parent
    places = [here / name, here.parent / "book" / name]
    for place in places:
        if place.is_file():
            return yaml.safe_load(place.read_text(encoding="utf-8")) or []
    raise FileNotFoundError(
        f"{name} was looked for at {places[0]} and {places[1]}; reinstall nbutils"
    )


def interval(measured: float | Iterable[float] | Interval) -> Interval:
    """Mean and 95 % interval (Student's t) of one number per seed, or one exact number as it is.

    An interval that `nbutils.intervals` made, on a log scale or of a count, stays as it is.
    Raises ValueError for no number, a number that is not finite, or more than one dimension.
    """
    if isinstance(measured, Interval):
        return measured
    values = np.asarray(measured, dtype=np.float64)
    if values.ndim > 1 or values.size == 0:
        raise ValueError(
            f"measured must be one number, or one number per seed; got shape {values.shape}. "
            "Average everything but the seeds first."
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"measured must be finite, got {values}: count the seeds that failed instead"
        )
    if values.ndim == 0:
        return Interval(float(values), float(values), float(values), 1, exact=True)
    return student(values)


def check(
    claim: str,
    part: str | None = None,
    *,
    measured: float | Iterable[float] | Interval,
    expected: float | None = None,
    rel: float | None = None,
    tol: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Hold a measurement against what the chapter says of a claim: show the card, or raise.

    `claim` is an id of `book/claims.yml`, whose `quantity` says what is measured; where a claim
    needs several measurements, `part` names this one. `measured` holds one number per seed, or is
    one exact number, or an interval of `nbutils.intervals`. The whole 95 % interval must lie inside
    the prediction: `expected` within `rel` (relative) or `tol` (absolute), and/or `above`, `below`.
    So the verdict does not hang on a lucky mean, and stays when the seeds change. A check that
    `book/awaiting.yml` lists does not raise: its card says "Under review" in place of a verdict.

    Raises EvidenceError if the prediction fails, KeyError for an unknown claim or part, ValueError
    for a prediction that cannot fail or fewer than three seeds.
    """
    statement = _statement(claim, part)
    (low, high), prediction = _bounds(expected, rel, tol, above, below)
    found = interval(measured)
    if not found.exact and found.n < 3:
        raise ValueError(
            f"{found.n} seeds give no honest interval: measure at least 3, or one exact number"
        )
    holds = low <= found.low and found.high <= high
    listed = any((each["claim"], each["part"]) == (claim, part) for each in awaiting())
    if not holds and not listed:
        raise EvidenceError(
            f"claim {claim!r}: {statement}: measured {describe(found)}, predicted {prediction}"
        )
    display(
        Verdict(
            claim=claim,
            part=part,
            anchor=_anchor(claim, statement),
            statement=statement,
            prediction=prediction,
            measured=found.mean,
            low=found.low,
            high=found.high,
            n=found.n,
            exact=found.exact,
            review=(PASSES_AGAIN if holds else UNDER_REVIEW) if listed else "",
        )
    )


def _statement(claim: str, part: str | None) -> str:
    """What is measured, from the claim's `quantity`: one text, or one text for each part."""
    if claim not in claims():
        raise KeyError(f"no claim {claim!r} in book/claims.yml: add it there, or correct the id")
    quantity = claims()[claim].get("quantity")
    if quantity is None:
        raise KeyError(
            f"claim {claim!r} has no quantity in book/claims.yml: say there what is measured"
        )
    if isinstance(quantity, str):
        return f"{quantity}, {part}" if part else quantity
    if part not in quantity:
        raise KeyError(f"claim {claim!r} is measured in the parts {list(quantity)}, got {part!r}")
    return quantity[part]


def describe(found: Interval | Verdict) -> str:
    """Text of a measurement: mean, interval and n, with as many digits as the interval earns."""
    mean = found.mean if isinstance(found, Interval) else found.measured
    if found.exact:
        return f"{mean:.4g} (exact)"
    show = _digits((found.high - found.low) / 2, mean)
    return f"{show(mean)} [{show(found.low)}, {show(found.high)}], n = {found.n}"


def _digits(half: float, mean: float) -> Callable[[float], str]:
    if half <= 1e-6 * abs(mean) or not 1e-3 <= abs(mean) < 1e4:
        return lambda value: f"{value:.3g}"
    places = min(6, max(0, 1 - math.floor(math.log10(half))))
    return lambda value: f"{value:.{places}f}"


def _bounds(
    expected: float | None,
    rel: float | None,
    tol: float | None,
    above: float | None,
    below: float | None,
) -> tuple[tuple[float, float], str]:
    low = -math.inf if above is None else above
    high = math.inf if below is None else below
    parts = [
        f"{word} {bound:g}"
        for word, bound in (("above", above), ("below", below))
        if bound is not None
    ]
    if expected is not None:
        if (rel is None) == (tol is None):
            raise ValueError(
                "expected= needs a tolerance: give either rel= (relative) or tol= (absolute)"
            )
        half = abs(expected) * rel if rel is not None else tol
        low, high = max(low, expected - half), min(high, expected + half)
        parts.insert(
            0,
            f"{expected:.4g} ± {rel:.3g} of it"
            if rel is not None
            else f"{expected:.4g} ± {tol:.2g}",
        )
    elif rel is not None or tol is not None:
        raise ValueError(
            "rel= and tol= say how far from expected= a measurement may lie: give expected= too"
        )
    if not parts:
        raise ValueError("a check needs a prediction: give expected=, above= or below=")
    if low >= high:
        raise ValueError(
            f"nothing lies between {low:g} and {high:g}: the prediction contradicts itself"
        )
    return (low, high), " and ".join(parts)


def _anchor(claim: str, statement: str) -> str:
    """`evidence-<claim>`, numbered when another statement of this notebook has taken it."""
    shell = get_ipython()
    taken = {} if shell is None else shell.user_ns.setdefault("_evidence_anchors", {})
    statements = taken.setdefault(claim, [])
    if statement not in statements:
        statements.append(statement)
    place = statements.index(statement)
    return f"evidence-{claim}" + (f"-{place + 1}" if place else "")


def _card(verdict: Verdict) -> str:
    """The card as HTML, styled inline: JupyterLab and Colab do not load the book's style sheet.

    The second and later measurements of a claim in a notebook do not repeat its words. A claim with
    a check in awaiting.yml has no verdict until that is decided.
    """
    entry = claims()[verdict.claim]
    said_by = "; ".join(entry["said_by"])
    source = f" ({escape(said_by)})" if said_by else ""
    claim = f"<strong>Claim{source}:</strong> {escape(entry['claim'])}"
    measured = (
        f"<strong>Measured:</strong> {escape(verdict.statement)}: "
        f"<strong>{describe(verdict)}</strong>, predicted {escape(verdict.prediction)}."
    )
    judged = f"<strong>Verdict: {VERDICTS[entry['verdict']]}.</strong> {escape(entry['finding'])}"
    reasons = [each["reason"] for each in awaiting() if each["claim"] == verdict.claim]
    if reasons:
        judged = f"<strong>Under review.</strong> {escape(' '.join(reasons))}"
    first = verdict.anchor == f"evidence-{verdict.claim}"
    lines = [claim, measured, judged] if first else [measured, judged] if reasons else [measured]
    return (
        f'<div class="nbu-evidence" id="{verdict.anchor}" style="border-left:4px solid #0072b2;'
        'padding:.4em .9em;margin:.6em 0;line-height:1.45">'
        f"{''.join(f'<div>{line}</div>' for line in lines)}</div>"
    )
