from __future__ import annotations

import re
from pathlib import Path

from store.tables import Base

PAGE = Path(__file__).parents[3] / "docs/architecture.md"


def test_the_page_lists_every_table_of_the_database() -> None:
    section = PAGE.read_text().partition("\n## Tables\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(Base.metadata.tables)
