"""The ledger of claims: claims.yml and the executed evidence, held against each other.

`nbutils.evidence.check` leaves an output of the type EVIDENCE in the cell that measured. Here those
outputs are gathered from the executed chapters, compared with book/claims.yml, and rendered by the
directive `ledger`. A claim with a check in book/awaiting.yml has no verdict: it is under review.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from nbutils.evidence import PASSES_AGAIN, UNDER_REVIEW, VERDICTS, Interval, describe

from .execution import EVIDENCE, chapters, code_cells, executed

EVIDENCE_FILE = "_build/evidence.json"
CLAIMS_FILE = "book/claims.yml"
AWAITING_FILE = "book/awaiting.yml"
FIELDS = {"id", "claim", "said_by", "source", "chapter", "decided_by", "verdict", "finding"}
OPTIONAL = {"quantity"}  # what evidence.check calls the measurement
REVIEW = UNDER_REVIEW.replace(" ", "-")  # in the place of a verdict
AWAITING_FIELDS = {"claim", "part", "number", "reason"}
DECIDED_BY = ("measurement", "citation", "not-testable")


@dataclass(frozen=True)
class Evidence:
    """One executed check: what `evidence.check` displayed, and the page it stands on."""

    page: str
    claim: str
    part: str | None
    anchor: str
    statement: str
    measured: float
    low: float
    high: float
    n: int
    exact: bool
    review: str


def gather(root: Path, cache_path: str) -> list[Evidence]:
    """All evidence in the executed chapters, in reading order."""
    found = []
    for path in chapters(root):
        page = path.relative_to(root).with_suffix("").as_posix()
        for cell in code_cells(executed(cache_path, path)):
            for output in cell.outputs:
                shown = output.get("metadata", {}).get(EVIDENCE)
                if shown is not None:
                    fields = {k: shown[k] for k in Evidence.__annotations__ if k != "page"}
                    found.append(Evidence(page, **fields))
    return found


def load(root: Path, name: str) -> list[dict[str, Any]]:
    """The entries of CLAIMS_FILE or AWAITING_FILE."""
    return yaml.safe_load((root / name).read_text(encoding="utf-8")) or []


def problems_of_claim(claim: dict[str, Any]) -> Iterator[str]:
    name = claim.get("id", "a claim without an id")
    missing, unknown = FIELDS - set(claim), set(claim) - FIELDS - OPTIONAL
    if missing:
        yield f"{name}: the fields {', '.join(sorted(missing))} are missing."
    if unknown:
        yield f"{name}: unknown fields {', '.join(sorted(map(str, unknown)))}."
    if missing or unknown:
        return
    # An unquoted `false` is a boolean in YAML, hence str().
    if not isinstance(claim["verdict"], str) or claim["verdict"] not in VERDICTS:
        yield (
            f"{name}: the verdict {claim['verdict']!r} is none of {', '.join(VERDICTS)} "
            "(write it in quotes)."
        )
    if claim["decided_by"] not in DECIDED_BY:
        yield f"{name}: decided_by {claim['decided_by']!r} is none of {', '.join(DECIDED_BY)}."
    if not isinstance(claim["chapter"], str):
        yield f"{name}: the chapter {claim['chapter']!r} has to be a string such as '01'."
    if not isinstance(claim["said_by"], list):
        yield f"{name}: said_by has to be a list."


def problems_of_awaiting(awaiting: list[dict[str, Any]], evidence: list[Evidence]) -> Iterator[str]:
    """Each entry has its fields, stands there once, and names a check that a chapter makes."""
    checks = {(item.claim, item.part) for item in evidence}
    listed: set[tuple[str, str | None]] = set()
    for entry in awaiting:
        if set(entry) != AWAITING_FIELDS:
            wanted = ", ".join(sorted(AWAITING_FIELDS))
            yield f"{AWAITING_FILE}: an entry has the fields {wanted}; got {entry}."
            continue
        check = entry["claim"], entry["part"]
        name = f"{AWAITING_FILE}: {entry['claim']}, part {entry['part']}"
        if check in listed:
            yield f"{name} stands there twice."
        elif check not in checks:
            yield f"{name}: no chapter makes this check. Correct it, or take it off the list."
        listed.add(check)


def problems(
    claims: list[dict[str, Any]], evidence: list[Evidence], awaiting: list[dict[str, Any]] = ()
) -> list[str]:
    """What keeps claims and evidence from agreeing; empty when they do."""
    told = [problem for claim in claims for problem in problems_of_claim(claim)]
    names = Counter(claim.get("id") for claim in claims)
    told += [f"{name}: {count} claims have this id." for name, count in names.items() if count > 1]
    measured = {item.claim for item in evidence}
    for claim in claims:
        decided = claim.get("decided_by")
        if decided == "measurement" and claim.get("id") not in measured:
            told.append(
                f"{claim.get('id')}: decided by measurement, but no chapter measured it. "
                "Add evidence.check to its chapter, or decide it by a citation."
            )
    for item in evidence:
        if item.claim not in names:
            told.append(
                f"{item.claim}: {item.page} measured it, but {CLAIMS_FILE} has no such claim."
            )
    anchors = Counter((item.page, item.anchor) for item in evidence)
    for (page, anchor), count in anchors.items():
        if count > 1:
            told.append(f"{page}: {count} pieces of evidence have the anchor {anchor}.")
    return [*told, *problems_of_awaiting(awaiting, evidence)]


def write_if_changed(path: Path, text: str) -> None:
    """Leave the file's time alone when nothing changed: pages depend on it."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def compare(app: Sphinx) -> None:
    """Gather the evidence and hold it against the claims.

    Raises: ExtensionError that names every disagreement.
    """
    root = Path(app.srcdir)
    evidence = gather(root, app.config.nb_execution_cache_path)
    told = problems(load(root, CLAIMS_FILE), evidence, load(root, AWAITING_FILE))
    if told:
        raise ExtensionError("Claims and evidence disagree.\n" + "\n".join(told))
    write_if_changed(
        root / EVIDENCE_FILE, json.dumps([asdict(item) for item in evidence], indent=1)
    )


def measured_text(item: Evidence) -> str:
    """Value, interval and number of seeds, in the same words as on the evidence card."""
    return describe(Interval(item.measured, item.low, item.high, item.n, item.exact))


class Ledger(SphinxDirective):
    """Render all claims by chapter, each with its verdict and its evidence."""

    has_content: ClassVar[bool] = False

    def run(self) -> list[nodes.Node]:
        root = Path(self.env.srcdir)
        for name in (CLAIMS_FILE, AWAITING_FILE, EVIDENCE_FILE):
            self.env.note_dependency(str(root / name))
        claims, self.reviews = load(root, CLAIMS_FILE), defaultdict(list)
        for entry in load(root, AWAITING_FILE):
            self.reviews[entry["claim"]].append(entry)
        evidence = defaultdict(list)
        for fields in json.loads((root / EVIDENCE_FILE).read_text(encoding="utf-8")):
            evidence[fields["claim"]].append(Evidence(**fields))
        by_chapter = defaultdict(list)
        for claim in claims:
            by_chapter[claim["chapter"]].append(claim)
        pages = {path.name[:2]: path for path in chapters(root)}
        shown = [self.counts(claims)]
        for chapter, its_claims in sorted(by_chapter.items()):
            section = nodes.section(ids=[f"chapter-{chapter}"])
            section += nodes.title("", "", *self.heading(root, chapter, pages.get(chapter)))
            for claim in its_claims:
                section += self.entry(claim, evidence[claim["id"]])
            shown.append(section)
        return shown

    def counts(self, claims: list[dict[str, Any]]) -> nodes.Node:
        """One line: how many claims there are, and how many of each verdict."""
        counted = Counter(self.verdict(claim) for claim in claims)
        line = nodes.paragraph(classes=["ledger-counts"])
        line += nodes.strong("", f"{len(claims)} claims")
        for verdict in (*VERDICTS, REVIEW):
            if counted[verdict]:
                line += nodes.Text(" ")
                text = f"{counted[verdict]} {label(verdict)}"
                line += nodes.inline("", text, classes=["verdict", verdict])
        return line

    def verdict(self, claim: dict[str, Any]) -> str:
        """The claim's verdict, or REVIEW while one of its checks is in awaiting.yml."""
        return REVIEW if self.reviews[claim["id"]] else claim["verdict"]

    def state_of_review(self, item: Evidence) -> str:
        """What a check in awaiting.yml has come to; empty for one that is not there."""
        fell = [each["number"] for each in self.reviews[item.claim] if each["part"] == item.part]
        if not fell:
            return ""
        if item.review == PASSES_AGAIN:
            return f", passes again (it fell with {fell[0]}): take it off {AWAITING_FILE}"
        return f", {UNDER_REVIEW} since it fell with {fell[0]}"

    def heading(self, root: Path, chapter: str, path: Path | None) -> list[nodes.Node]:
        if path is None:
            return [nodes.Text(f"Chapter {chapter}")]
        page = path.relative_to(root).with_suffix("").as_posix()
        return [nodes.Text(f"Chapter {chapter} · "), self.link(page, "", title_of(path))]

    def link(self, page: str, anchor: str, text: str) -> nodes.Node:
        """A link to an anchor that only exists in the HTML of a cell's output."""
        uri = self.env.app.builder.get_relative_uri(self.env.docname, page)
        target = f"{uri}#{anchor}" if anchor else uri
        return nodes.reference("", text, refuri=target, internal=True)

    def entry(self, claim: dict[str, Any], evidence: list[Evidence]) -> nodes.Node:
        """One claim: the sentence, its verdict, who says it, what decides it, the measurements."""
        entry = nodes.container(classes=["ledger-entry"], ids=[f"claim-{claim['id']}"])
        head = nodes.paragraph(classes=["ledger-claim"])
        verdict = self.verdict(claim)
        head += nodes.inline("", label(verdict), classes=["verdict", verdict])
        head += nodes.Text(" ")
        head += self.inline_markdown(claim["claim"])
        entry += head
        finding = nodes.paragraph(classes=["ledger-finding"])
        reasons = [f"Under review: {each['reason']}" for each in self.reviews[claim["id"]]]
        finding += self.inline_markdown(" ".join(reasons) or claim["finding"])
        entry += finding
        for item in evidence:
            line = nodes.paragraph(classes=["ledger-measured"])
            line += nodes.Text("Measured: ")
            line += self.inline_markdown(item.statement)
            line += nodes.Text(" ")
            line += self.link(item.page, item.anchor, measured_text(item))
            line += nodes.Text(self.state_of_review(item))
            entry += line
        origin = nodes.paragraph(classes=["ledger-origin"])
        if claim["said_by"]:
            origin += nodes.Text(f"Said by {', '.join(map(str, claim['said_by']))}. ")
        if claim["source"]:
            origin += nodes.Text("Source: ")
            origin += self.inline_markdown(claim["source"])
        if origin.children:
            entry += origin
        return entry

    def inline_markdown(self, text: str) -> list[nodes.Node]:
        """Parse one paragraph of Markdown and return what is inside it."""
        holder = nodes.Element()
        self.state.nested_parse(StringList([" ".join(str(text).split())]), 0, holder)
        return holder[0].children if holder.children else []


def label(verdict: str) -> str:
    """A verdict as people read it."""
    return verdict.replace("-", " ")


def title_of(path: Path) -> str:
    """The first heading of a notebook, as plain text."""
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for line in "".join(cell["source"]).splitlines():
            if cell["cell_type"] == "markdown" and line.startswith("# "):
                return line.removeprefix("# ").replace("`", "").strip()
    return path.stem


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", compare, priority=200)  # after the chapters have been executed
    app.add_directive("ledger", Ledger)
