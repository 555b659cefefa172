from __future__ import annotations

from pathlib import Path

import pytest

from cli.reference_pages.fleet_tables import adapter_bytes, tables, transfer_s
from cli.sizing.counting import count_preset

PAGE = Path(__file__).parents[3] / "docs/fleet.md"


def test_the_page_has_the_tables_that_are_counted() -> None:
    page = PAGE.read_text()
    for table in tables():
        assert table in page, "take those that `python -m cli.reference_pages.fleet_tables` prints"


def test_an_adapter_takes_its_bytes_over_the_bandwidth_for_each_sampler() -> None:
    counts = count_preset("qwen3-8b", 32)
    assert adapter_bytes(counts) == 2 * 87_293_952
    assert transfer_s(8 * adapter_bytes(counts), gbits=10) == pytest.approx(8 * 2 * 87_293_952 * 8 / 10e9)
