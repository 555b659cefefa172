"""A hook of the site's builder: links that lead out of `docs/` lead to copies, under `repository/` in the site.

In the repository a page links figures, examples and the pages at its root by their paths. Files that are linked are put
into the site, pages among them as pages; a link to a folder becomes its text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from posixpath import dirname, join, normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
CODE_OR_LINK = re.compile(
    r"(?P<code>^```.*?^```|`[^`\n]+`)|(?P<image>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)",
    re.MULTILINE | re.DOTALL,
)


def on_files(files: Files, config: Any) -> Files:
    """Adds what pages link outside `docs/`, and what those link."""
    known = {f"docs/{file.src_uri}" for file in files}
    queue = sorted(path for path in known if path.endswith(".md"))
    for page in queue:
        for path in _linked(page, (ROOT / page).read_text()):
            if path not in known and (ROOT / path).is_file():
                known.add(path)
                file = File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path))
                file.inclusion = InclusionLevel.NOT_IN_NAV
                files.append(file)
                if path.endswith(".md"):
                    queue.append(path)
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page with links as the site has them."""
    here = page.file.src_uri
    return _replaced(_in_repository(here), markdown, lambda path, link: _in_site(here, path, link))


def _in_repository(uri: str) -> str:
    return uri.removeprefix("repository/") if uri.startswith("repository/") else f"docs/{uri}"


def _in_site(here: str, path: str, link: re.Match[str]) -> str:
    if not (ROOT / path).exists():
        return link[0]  # the builder names it
    if (ROOT / path).is_dir():
        return link["text"]
    uri = path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"
    _, hash_sign, anchor = link["target"].partition("#")
    return f"{link['image']}[{link['text']}]({relpath(uri, dirname(here) or '.')}{hash_sign}{anchor})"


def _linked(page: str, markdown: str) -> Iterator[str]:
    for match in CODE_OR_LINK.finditer(markdown):
        if (path := _path(page, match)) is not None:
            yield path


def _replaced(page: str, markdown: str, replace: Callable[[str, re.Match[str]], str]) -> str:
    def one(match: re.Match[str]) -> str:
        path = _path(page, match)
        return match[0] if path is None else replace(path, match)

    return CODE_OR_LINK.sub(one, markdown)


def _path(page: str, match: re.Match[str]) -> str | None:
    """Where the link leads in the repository. None: it is code, or leads elsewhere, or within the page."""
    target = match["target"]
    if target is None or re.match(r"[a-z]+:|#", target):
        return None
    return normpath(join(dirname(page), target.partition("#")[0]))
