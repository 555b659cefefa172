from __future__ import annotations

from pathlib import Path

from cli.reference_pages.sizing_tables import tables

PAGE = Path(__file__).parents[3] / "docs/sizing.md"


def test_the_page_has_the_tables_that_the_command_counts() -> None:
    page = PAGE.read_text()
    for table in tables():
        assert table in page, "take those that `python -m cli.reference_pages.sizing_tables` prints"
