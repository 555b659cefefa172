"""Each page of documentation is reached from the site's navigation and from the index by role."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
DOCS = ROOT / "docs"
PAGES = {page.name for page in DOCS.glob("*.md")}


def pages_of(nav: Any) -> list[str]:
    """In the order of the navigation."""
    if isinstance(nav, str):
        return [nav]
    entries = nav.values() if isinstance(nav, dict) else nav
    return [page for entry in entries for page in pages_of(entry)]


def settings() -> dict[str, Any]:
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text())
    return yaml.safe_load(text)


def test_the_navigation_has_every_page_once() -> None:
    assert sorted(pages_of(settings()["nav"])) == sorted({*PAGES, "decisions/README.md"})


def test_the_index_links_every_page() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (DOCS / "README.md").read_text()))
    assert PAGES - {"README.md"} - linked == set()


def test_the_readme_links_the_index() -> None:
    assert "](docs/README.md)" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("setting", ["not_found", "anchors", "absolute_links", "unrecognized_links"])
def test_the_builder_refuses_links_that_lead_nowhere(setting: str) -> None:
    assert settings()["validation"]["links"][setting] == "warn", "and `make check` builds with --strict"
