from __future__ import annotations

from pathlib import Path

from cli.reference_pages.configuration_reference import render

PAGE = Path(__file__).parents[3] / "docs/configuration.md"


def test_the_page_is_what_the_options_say() -> None:
    assert PAGE.read_text() == render(), "run `make docs`"


def test_an_option_has_its_variable_default_bounds_and_planes() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| `--")]
    rows = {line.split("`")[1]: line for line in lines}
    assert "| `HEADWAY_LEASE_TTL_S` | 4; 300 for several ranks | at least 1 |" in rows["--lease-ttl"]
    assert "| `HEADWAY_WATCHDOG_S` | `1800` | at least 1 |" in rows["--watchdog"]
    assert rows["--promotion"].endswith("| server, trainer, up |")
    assert "| `HEADWAY_TRACE_TIMEOUT_H` | `6` |" in rows["--trace-timeout-h"], "hours, as it is given"
