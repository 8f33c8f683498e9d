"""Refuse empty pages, and keep the others light.

The theme draws its icons with a script of half a megabyte. The book's pages use about twenty icons,
so the script goes, and the icons in use become CSS masks, cut from that script's own data.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote

import pydata_sphinx_theme
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
SCRIPT = re.compile(r"\s*<script[^>]*fontawesome\.js[^>]*></script>")
CLASS = re.compile(r'<(?:i|span)\b[^>]*\bclass="([^"]*\bfa-[^"]*)"')
DRAWING = re.compile(r'"?([\w-]+)"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","(M[^"]+)"\]')
STYLES = {"fa-brands": "brands", "fab": "brands", "fa-regular": "regular", "far": "regular"}
NO_ICON = {"fa-solid", "fa-lg", "fa-fw", "fa-xs", "fa-sm", *STYLES}  # classes of style and size
SHORTEST_PAGE = 40  # characters of text besides the title

Drawing = tuple[int, int, str]  # width, height, SVG path


def refuse_empty(app: Sphinx, doctree: nodes.document, page: str) -> None:
    """Warn about a page without text; warnings fail the build."""
    title = next(doctree.findall(nodes.title), None)
    text = doctree.astext().strip()
    if title is None:
        LOGGER.warning("%s has no title", page, location=page, type="measured", subtype="empty")
    elif len(text) - len(title.astext()) < SHORTEST_PAGE:
        LOGGER.warning("%s is empty", page, location=page, type="measured", subtype="empty")


def theme_drawings() -> dict[str, dict[str, Drawing]]:
    """The theme's icons: style, then name, to a drawing.

    The script lists the icons alphabetically, one list per style: brands, regular, solid.
    """
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme/pydata_sphinx_theme"
    script = (theme / "static/scripts/fontawesome.js").read_text(encoding="utf-8")
    lists: list[dict[str, Drawing]] = []
    end = 0
    for found in DRAWING.finditer(script):
        if found.start() > end + 1 and (not lists or "={" in script[end : found.start()]):
            lists.append({})
        name, width, height, path = found.groups()
        lists[-1][name] = (int(width), int(height), path)
        end = found.end()
    if len(lists) != 3:
        raise ExtensionError(
            f"The theme's icon script holds {len(lists)} lists of icons instead of three (brands, "
            "regular, solid). Has the theme changed? See book/_ext/measured/pages.py."
        )
    return dict(zip(("brands", "regular", "solid"), lists, strict=True))


def icons_in(html: str) -> set[tuple[str, str]]:
    """The icons that a page uses: (style, name)."""
    used = set()
    for found in CLASS.finditer(html):
        classes = found[1].split()
        style = next((STYLES[c] for c in classes if c in STYLES), "solid")
        names = [c for c in classes if c.startswith("fa-") and c not in NO_ICON]
        used.update((style, name.removeprefix("fa-")) for name in names)
    return used


def icon_css(used: set[tuple[str, str]], drawings: dict[str, dict[str, Drawing]]) -> str:
    """A style sheet that draws each icon in the text's colour.

    Raises: ExtensionError for an icon that the theme does not have.
    """
    rules = [
        "[class*='fa-']{display:inline-block;height:1em;width:1em;vertical-align:-.125em;"
        "background:currentColor;mask:var(--icon) center/contain no-repeat}",
        ".fa-lg{font-size:1.25em;vertical-align:-.2em}",
        # In forced colours a mask over currentColor would vanish with the background.
        "@media (forced-colors:active){[class*='fa-']{forced-color-adjust:none;"
        "background:CanvasText}}",
    ]
    for style, name in sorted(used):
        if name not in drawings[style]:
            raise ExtensionError(
                f"A page uses the icon fa-{name} ({style}), which the theme does not have."
            )
        width, height, path = drawings[style][name]
        svg = (
            f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}'>"
            f"<path d='{path}'/></svg>"
        )
        rules.append(f'.fa-{name}{{--icon:url("data:image/svg+xml,{quote(svg, safe=SAFE)}")}}')
    return "\n".join(rules) + "\n"


SAFE = " '=:/,"  # readable in a quoted CSS url


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Drop the icon script from all pages, and write the icons that they use as one style sheet."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    used: set[tuple[str, str]] = set()
    for page in sorted(out.rglob("*.html")):
        html = page.read_text(encoding="utf-8")
        used |= icons_in(html)
        lighter = SCRIPT.sub("", html)
        if lighter != html:
            page.write_text(lighter, encoding="utf-8")
    sheet = icon_css(used, theme_drawings())
    (out / "_static/icons.css").write_text(sheet, encoding="utf-8")
    for unused in (out / "_static/scripts").glob("fontawesome.js*"):
        unused.unlink()


def forget_after_warnings(app: Sphinx, error: Exception | None) -> None:
    """Make the next build read everything again when this one warned.

    Sphinx warns only about pages that it reads. Without this, a build that failed on a warning would
    succeed when it is simply run once more.
    """
    if app._warncount:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


def setup(app: Sphinx) -> None:
    app.add_css_file("icons.css")
    app.connect("doctree-resolved", refuse_empty)
    app.connect("build-finished", lighten)
    app.connect("build-finished", forget_after_warnings, priority=900)
