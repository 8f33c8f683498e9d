"""Execute each chapter alone on one core, print the seconds, and write book/times.csv.

Usage: python tools/times.py
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book/_ext"))

from measured.execution import chapters, run  # noqa: E402

TIMEOUT = 600
BUDGET = 40
LARGER_BUDGETS = {"08": 90, "12": 90}  # they train transformers and adversarial networks


def stay_on_one_core() -> None:
    """Keep this process and the kernels that it starts on one core, where the system can."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def main() -> None:
    stay_on_one_core()
    rows, failed = [], []
    print(f"{'chapter':<34}{'seconds':>8}{'budget':>8}")
    for path in chapters(ROOT):
        done = run(path, TIMEOUT)
        budget = LARGER_BUDGETS.get(path.stem[:2], BUDGET)
        remark = "  failed" if done.failure else "  over budget" * (done.seconds > budget)
        print(f"{path.stem:<34}{done.seconds:>8.1f}{budget:>8}{remark}", flush=True)
        if done.failure:
            failed.append(f"{path.stem}: {done.failure.splitlines()[-1]}")
        else:
            rows.append((path.stem, f"{done.seconds:.1f}", budget))
    if failed:
        sys.exit(
            "book/times.csv is left as it was, because a chapter failed.\n" + "\n".join(failed)
        )
    with (ROOT / "book/times.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("Chapter", "Seconds", "Budget"), *rows])


if __name__ == "__main__":
    main()
