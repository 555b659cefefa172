"""`python -m tests.chart [CHART]`: lint the chart, render each of its profiles, and check what comes out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.chart.house_rules import broken_rules
from tests.chart.rendering import CHART, NotRendered, lint, profiles, render
from tests.chart.tools import NotInstalled
from tests.chart.validation import problems


def faults(chart: Path) -> Iterator[str]:
    """What is wrong with the chart, by profile. Raises NotInstalled."""
    yield from lint(chart)
    for profile in profiles(chart):
        try:
            documents = render(profile, chart=chart)
        except NotRendered as error:
            yield f"{profile}: {error}"
            continue
        found = problems(documents) or broken_rules(documents)
        yield from (f"{profile}: {line}" for line in found)


def main(words: list[str]) -> int:
    chart = Path(words[0]) if words else CHART
    try:
        found = list(faults(chart))
    except NotInstalled as error:
        found = [str(error)]
    names = ", ".join(profiles(chart))
    print("\n".join(found) if found else f"the chart is valid with each profile: {names}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
