from __future__ import annotations

from tests.fleet.fault_table import figures, table
from tests.fleet.process import REPOSITORY


def test_the_page_on_faults_has_the_measured_table() -> None:
    page = (REPOSITORY / "docs" / "fleet-faults.md").read_text()
    assert table(figures()) in page, "take the one that `python -m tests.fleet.fault_table` prints"


def test_nothing_was_lost_doubled_or_changed_in_bits() -> None:
    assert [trial["where"] for trial in figures()["trials"] if trial["wrong"]] == []
