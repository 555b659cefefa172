"""The documentation as the server shows it, and the help links of its pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from server.pages.help.documents import document, picture, slug

ROOT = Path(__file__).parents[3]
NAMES = [path.stem for path in sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"""(?:href=|['"(])["']?(/help[\w/#-]*)""")
TEMPLATES = sorted((ROOT / "server/pages").glob("*/*.html"))


def leads_nowhere(link: str) -> bool:
    name, _, anchor = link.removeprefix("/help").removeprefix("/").partition("#")
    found = document(name or "README")
    return found is None or (bool(anchor) and f'id="{anchor}"' not in found.html)


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_shown_and_its_links_lead_somewhere(name: str) -> None:
    shown = document(name)
    assert shown is not None
    assert shown.title
    links = re.findall(r'href="(/help[^"]*)"', shown.html)
    own = [f"/help/{name}{anchor}" for anchor in re.findall(r'href="(#[^"]*)"', shown.html)]
    assert [link for link in (*links, *own) if leads_nowhere(link)] == []
    assert ".md" not in "".join(re.findall(r'href="([^"]*)"', shown.html))


def test_help_links_of_pages_lead_somewhere() -> None:
    links = {link for template in TEMPLATES for link in LINK.findall(template.read_text())}
    assert [link for link in sorted(links) if leads_nowhere(link)] == []


def test_html_in_the_text_is_shown_and_comments_are_not() -> None:
    assert document("tinker") is not None
    assert "<script" not in "".join(shown.html for name in NAMES if (shown := document(name)))


@pytest.mark.parametrize("name", ["../README", "nothing", "/etc/passwd", "decisions/../runs", "runs.md", ""])
def test_what_is_no_page_is_not_there(name: str) -> None:
    assert document(name) is None


def test_headings_are_named_as_on_a_forge() -> None:
    assert slug("On-policy, or one step off") == "on-policy-or-one-step-off"
    assert slug("`/v1/messages` & co.") == "v1messages--co"


def test_pictures_are_shown_and_nothing_else() -> None:
    shown = document("pages")
    assert shown is not None
    names = re.findall(r'src="/help/pictures/([\w.-]+)"', shown.html)
    assert names
    assert all((picture(name) or b"").startswith(b"\x89PNG") for name in names)
    assert picture("../README.md") is None
    assert picture("nothing.png") is None
