from __future__ import annotations

from pathlib import Path

DECISIONS = Path(__file__).parents[3] / "docs/decisions"


def test_the_index_lists_every_decision_by_number_and_title() -> None:
    rows = []
    for page in sorted(DECISIONS.glob("0*.md")):
        number, _, title = page.read_text().partition("\n")[0].removeprefix("# ").partition(". ")
        assert page.name.startswith(f"{int(number):04}-")
        rows.append(f"| [{number}]({page.name}) | {title} |")
    listed = [line for line in (DECISIONS / "README.md").read_text().splitlines() if line.startswith("| [")]
    assert listed == rows
