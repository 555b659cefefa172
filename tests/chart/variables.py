"""`python -m tests.chart.variables` writes deploy/helm/headway/files/variables.yaml: variables that an operator may set
of each plane. The chart refuses others that begin with HEADWAY_, which the plane would ignore without a word."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from tests.chart.command_line import COMMANDS, variables, words_of
from tests.chart.commands import is_ours
from tests.chart.pods import pods
from tests.chart.rendering import CHART, profiles, render

FILE = CHART / "files" / "variables.yaml"
HEAD = (
    "# Written by `python -m tests.chart.variables`: what each plane reads, beside what the chart gives as options.\n"
)
PLANES = ("server", "sampler", "trainer", "runner", "migrate")


def text() -> str:
    """The file."""
    given = _given()
    read = {plane: sorted(_of_ours(plane) - given[plane]) for plane in PLANES}
    return HEAD + yaml.safe_dump(read, sort_keys=False)


def _of_ours(plane: str) -> set[str]:
    return {name for name in variables(plane) if name.startswith("HEADWAY_")}


def _given() -> dict[str, set[str]]:
    """Variables whose options stand in the arguments of a pod, where they win over the variable."""
    found: dict[str, set[str]] = {plane: set() for plane in PLANES}
    for plane, option in _arguments():
        for parameter in COMMANDS[plane].params:
            if option in parameter.opts and parameter.envvar:
                found[plane] |= {parameter.envvar} if isinstance(parameter.envvar, str) else set(parameter.envvar)
    return found


def _arguments() -> Iterator[tuple[str, str]]:
    for profile in profiles():
        for pod in pods(render(profile)):
            for container in filter(is_ours, pod.containers):
                command, arguments = container.get("command") or [], container.get("args") or []
                plane, *words = words_of([*command, *arguments]) or arguments
                yield from ((plane, word) for word in words if word.startswith("--"))


if __name__ == "__main__":
    FILE.write_text(text())
