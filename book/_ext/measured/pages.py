"""Refuse empty pages, and keep the others light and accessible.

The theme draws its icons with Font Awesome: a script, two fonts and two thousand CSS rules, which
weigh 800 kB. The book's pages use about twenty icons. So all of that goes, and the icons in use
become CSS masks, cut from the script's own data.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import pydata_sphinx_theme
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.errors import ExtensionError
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)
# What is amended in every page: the pattern, and what takes its place.
MATHJAX = re.compile(r"\s*<script[^>]*mathjax/startup\.js[^>]*></script>")
AMENDMENTS = (
    # The icon script; icons.css does its work.
    (re.compile(r"\s*<script[^>]*fontawesome\.js[^>]*></script>"), ""),
    # A header cell without text (pandas' corner) is an ordinary empty cell.
    (re.compile(r"<th( class=\"blank[^\"]*\")?\s*>(?:&nbsp;)?</th>"), r"<td\1></td>"),
    # docutils: the entries of a list have to be list items, and doc-biblioentry is deprecated.
    (re.compile(r'role="doc-biblioentry"'), 'role="listitem"'),
)
CSS_RULE = re.compile(r"[^{}]+\{[^{}]*\}")
ICON_RULE = re.compile(
    r"^(?:/\*.*?\*/)?\s*\.fa[\w-]*:before(?:,\s*\.fa[\w-]*:before)*\{", re.DOTALL
)
CLASS = re.compile(r'<(?:i|span)\b[^>]*\bclass="([^"]*\bfa-[^"]*)"')
DRAWING = re.compile(r'"?([\w-]+)"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","(M[^"]+)"\]')
STYLES = {"fa-brands": "brands", "fab": "brands", "fa-regular": "regular", "far": "regular"}
NO_ICON = {"fa-solid", "fa-lg", "fa-fw", "fa-xs", "fa-sm", *STYLES}  # classes of style and size
MATHJAX_PARTS = (
    "startup.js",
    "core.js",
    "input/tex.js",
    "input/tex/extensions",
    "output/chtml.js",
    "output/chtml/fonts",
    "a11y/assistive-mml.js",
)
# Fonts that every chapter uses. The root page fetches them when it is idle, so that the first
# chapter opens as quickly as the later ones.
PREFETCHED = (
    "fonts/source-serif-4-latin-400-italic.woff2",
    *(
        f"mathjax/output/chtml/fonts/woff-v2/MathJax_{font}.woff"
        for font in ("Main-Regular", "Math-Italic", "AMS-Regular", "Size1-Regular", "Size2-Regular")
    ),
)
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
        "/* Icons: Font Awesome Free, https://fontawesome.com/license/free, CC BY 4.0 */",
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


def without_font_awesome(css: str) -> str:
    """The theme's style sheet without the rules that draw icons from fonts."""

    def keep(rule: re.Match[str]) -> str:
        text = rule[0]
        font = "@font-face" in text and "Font Awesome" in text.replace("\\ ", " ")
        return "" if font or ICON_RULE.match(text) else text

    return CSS_RULE.sub(keep, css)


def amend(path: Path, change: Callable[[str], str]) -> None:
    """Rewrite a file if the change changes it."""
    text = path.read_text(encoding="utf-8")
    changed = change(text)
    if changed != text:
        path.write_text(changed, encoding="utf-8")


def amend_page(html: str) -> str:
    for pattern, replacement in AMENDMENTS:
        html = pattern.sub(replacement, html)
    # Sphinx also loads MathJax on the root page, on behalf of the pages below it.
    return html if 'class="math' in html else MATHJAX.sub("", html)


def copy_mathjax(target: Path) -> None:
    """Copy the parts of MathJax that _config.yml names, and what these load by themselves."""
    package = find_spec("sphinx-mathjax-offline")
    if package is None:
        raise ExtensionError("sphinx-mathjax-offline is missing: pip install -e .[book]")
    source = Path(package.origin).parent / "static/mathjax"
    for part in MATHJAX_PARTS:
        (target / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            shutil.copyfile(source / part, target / part)


def prefetch(html: str) -> str:
    """The root page, with links to what the other pages will need."""
    static = re.search(r'href="([^"]*_static/)book\.css', html)[1]
    links = [
        f'<link rel="prefetch" as="font" crossorigin href="{static}{file}">' for file in PREFETCHED
    ]
    return html if links[0] in html else html.replace("</head>", "\n".join([*links, "</head>"]), 1)


def lighten(app: Sphinx, error: Exception | None) -> None:
    """Amend all pages, and put one small style sheet of icons in the place of Font Awesome."""
    if error or app.builder.format != "html":
        return
    out = Path(app.outdir)
    used: set[tuple[str, str]] = set()
    for page in out.rglob("*.html"):
        amend(page, amend_page)
        used |= icons_in(page.read_text(encoding="utf-8"))
    amend(out / f"{app.config.root_doc}.html", prefetch)
    static = out / "_static"
    (static / "icons.css").write_text(icon_css(used, theme_drawings()), encoding="utf-8")
    amend(static / "styles/pydata-sphinx-theme.css", without_font_awesome)
    copy_mathjax(static / "mathjax")
    shutil.rmtree(static / "vendor/fontawesome", ignore_errors=True)
    for unused in ("scripts/fontawesome.js", "**/*.map", "*webpack-macros.html"):
        for path in static.glob(unused):
            path.unlink()


def forget_after_warnings(app: Sphinx, error: Exception | None) -> None:
    """Make the next build read everything again when this one warned.

    Sphinx warns only about pages that it reads. Without this, a build that failed on a warning
    would succeed when it is simply run once more.
    """
    if app._warncount:
        (Path(app.doctreedir) / "environment.pickle").unlink(missing_ok=True)


def notice_the_look(app: Sphinx, config: Config) -> None:
    """Let a changed style sheet, script or template count as a changed setting.

    Sphinx copies static files only when it writes a page, and it would write none.
    """
    digest = hashlib.sha256()
    for folder in (*config.html_static_path, *config.templates_path):
        for path in sorted(filter(Path.is_file, (Path(app.srcdir) / folder).rglob("*"))):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    config.measured_look = digest.hexdigest()


def setup(app: Sphinx) -> None:
    app.add_config_value("measured_look", "", "html", str)
    app.connect("config-inited", notice_the_look)
    app.add_css_file("icons.css")
    app.connect("doctree-resolved", refuse_empty)
    app.connect("build-finished", lighten)
    app.connect("build-finished", forget_after_warnings, priority=900)
