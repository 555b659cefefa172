"""Pages of `docs/` as HTML. Their links lead to one another here; what they link outside `docs/` is text."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import count, pairwise
from pathlib import Path
from posixpath import dirname, join, normpath

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

_FOLDERS = (Path(__file__).parents[3] / "docs", Path(sys.prefix) / "share/headway/docs")
"""Of the repository, and where it is installed."""
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_ELSEWHERE = re.compile(r"[a-z]+:")
INDEX = "README"


@dataclass(frozen=True, slots=True)
class Document:
    """A page. `html`: escaped by the renderer, which takes no HTML from the text."""

    title: str
    html: Markup


def document(name: str) -> Document | None:
    """The page `docs/<name>.md`; of a folder, its `README`. None: there is none."""
    path = _pages().get(name) or _pages().get(f"{name}/{INDEX}")
    return None if path is None else _rendered(path, path.stat().st_mtime)


def picture(name: str) -> bytes | None:
    """A file of `docs/pictures/`."""
    path = _pictures().get(name)
    return None if path is None else path.read_bytes()


@cache
def _pages() -> dict[str, Path]:
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for folder in _FOLDERS[::-1]
        for path in [*folder.glob("*.md"), *folder.glob("decisions/*.md")]
    }


@cache
def _pictures() -> dict[str, Path]:
    return {path.name: path for folder in _FOLDERS[::-1] for path in folder.glob("pictures/*.png")}


@lru_cache(maxsize=200)
def _rendered(path: Path, modified_at: float) -> Document:
    name = next(name for name, page in _pages().items() if page == path)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(_COMMENT.sub("", path.read_text(encoding="utf-8")))
    _name_headings(tokens)
    _empty_headings(tokens)
    for token in tokens:
        _make_scrollable(token)
        _lead_links(token.children or [], name)
    title = next((after.content for token, after in pairwise(tokens) if token.tag == "h1"), name)
    html = markdown.renderer.render(tokens, markdown.options, {})
    number = count(1)
    html = re.sub("<table", lambda _: _SCROLLING.format(next(number)) + "<table", html)
    html = html.replace("</table>", "</table></div>")
    return Document(title.replace("`", ""), Markup(html))  # noqa: S704 - rendered without HTML of the text


_SCROLLING = '<div class="scroll" tabindex="0" role="region" aria-label="Table {}">'


def _name_headings(tokens: Sequence[Token]) -> None:
    """The names that links have for headings, as the forge and the site make them."""
    for heading, inline in pairwise(tokens):
        if heading.type == "heading_open":
            heading.attrSet("id", slug("".join(part.content for part in inline.children or [])))


def _empty_headings(tokens: Sequence[Token]) -> None:
    """Markdown has no table without headings: cells that head nothing are plain ones."""
    for opening, inline, closing in zip(tokens, tokens[1:], tokens[2:], strict=False):
        if opening.type == "th_open" and not inline.content.strip():
            opening.tag = closing.tag = "td"


def slug(heading: str) -> str:
    """`On-policy, or one step off` → `on-policy-or-one-step-off`."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def _make_scrollable(token: Token) -> None:
    """Wide things scroll by themselves, with the keyboard too."""
    if token.type == "table_open":
        token.attrSet("class", "rows")
    if token.type in ("fence", "code_block"):
        token.type, token.tag = "code_block", ""
        token.attrs = {"class": "code", "tabindex": "0"}


def _lead_links(parts: Sequence[Token], page: str) -> None:
    leads_on = True
    for part in parts:
        if part.type == "link_open":
            target = _target(page, str(part.attrGet("href")))
            leads_on = target is not None
            part.tag, part.attrs = ("a", {"href": target}) if target is not None else ("span", {})
        if part.type == "link_close" and not leads_on:
            part.tag, leads_on = "span", True
        if part.type == "image":
            part.attrSet("src", f"/help/{normpath(join(dirname(page), str(part.attrGet('src'))))}")


def _target(page: str, link: str) -> str | None:
    """Where a link leads here. None: nowhere."""
    if _ELSEWHERE.match(link) or link.startswith("#"):
        return link
    path, sharp, anchor = link.partition("#")
    name = normpath(join(dirname(page), path)).removesuffix(".md")
    return f"/help/{name}{sharp}{anchor}" if name in _pages() or f"{name}/{INDEX}" in _pages() else None
