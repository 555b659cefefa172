"""docs/configuration.md, from the commands: `python -m cli.reference_pages.configuration_reference` writes it."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

import typer.main

from cli.main import app

_PLANES = {
    "server": "Answers the API and shows the pages.",
    "trainer": "Takes training calls from the log, and writes checkpoints.",
    "sampler": "Generates with what the trainers made.",
    "runner": "Plays environments, and drives agents.",
    "up": "All of them on this machine. What is not an option here is a variable that `up` hands to its planes.",
    "migrate": "Brings the database to the newest schema, and registers bases.",
}
_INTRODUCTION = """\
# Configuration

Written by `make docs` from the declarations of the settings; change those, not this file.

Every process takes its settings from its command line, and from the environment where a variable is named; the command
line has precedence. `headway up` starts the planes with its own environment, so that
`HEADWAY_MAX_TOKENS_PER_PASS=4096 headway up …` configures its trainer. Settings of managed runs are not here: they
belong to [a run](runs.md#start-one), and an operator's defaults for them stand in [a
file](operations.md#defaults-of-managed-runs).
"""
_OTHERS = """\
## Variables of others

| variable | |
| --- | --- |
| `HEADWAY_RUNNER_KEY` | a runner's key, in place of `--key-file` |
| `AWS_ENDPOINT_URL`, `AWS_…` | for a checkpoint store in S3: whatever boto3 reads ([more](deploy.md#an-object-store)) |
| `HF_HOME`, `HF_TOKEN`, `HF_HUB_OFFLINE` … | where bases are fetched from and kept: whatever huggingface_hub reads |
| `OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_…` | where traces go ([monitoring](monitoring.md)) |
| `OMP_NUM_THREADS`, `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT` | of torch: threads, and how they wait |
| `FORWARDED_ALLOW_IPS` | proxies whose `X-Forwarded-Proto` the server believes |
| `HUD_…_URL`, `HUD_API_KEY`, `TINKER_BASE_URL`, `TINKER_API_KEY` | of the clients: `source .headway/env` |
"""


def render() -> str:
    """The whole of docs/configuration.md."""
    commands = {name: _options(name) for name in _PLANES}
    shared = {
        flag: [name for name in commands if _is_in(commands[name], option)]
        for options in commands.values()
        for flag, option in options.items()
    }
    common = {flag: names for flag, names in shared.items() if len(names) > 2}
    rows = {flag: commands[names[0]][flag] for flag, names in common.items()}
    sections = [_INTRODUCTION, "## Of several planes\n", _table(rows, common)]
    for name, does in _PLANES.items():
        own = {flag: option for flag, option in commands[name].items() if name not in common.get(flag, ())}
        sections += [f"## `headway {name}`\n", does + "\n", _table(own)]
    return "\n".join([*sections, _OTHERS])


def _options(command: str) -> dict[str, Any]:
    """By the longest spelling."""
    parameters = typer.main.get_command(app).commands[command].params  # type: ignore[attr-defined]
    return {max(option.opts, key=len): option for option in parameters if option.opts[0].startswith("-")}


def _is_in(options: Mapping[str, Any], option: Any) -> bool:
    return any(_row(other) == _row(option) for other in options.values())


def _table(options: Mapping[str, Any], planes: Mapping[str, Sequence[str]] | None = None) -> str:
    head = ["option", "variable", "default", "bounds", "what it does", *(["of"] if planes else [])]
    rows = [head, ["---"] * len(head)]
    for flag, option in options.items():
        rows.append([*_row(option), *([", ".join(planes[flag])] if planes else [])])
    return "\n".join("| " + " | ".join(_escaped(cell) for cell in row) + " |" for row in rows) + "\n"


def _escaped(cell: str) -> str:
    return cell.replace("|", "\\|").replace("<", "&lt;")


def _row(option: Any) -> list[str]:
    spellings = ", ".join(f"`{spelling}`" for spelling in (*option.opts, *option.secondary_opts))
    variable = f"`{option.envvar}`" if option.envvar else ""
    return [spellings, variable, _default(option), ", ".join(_bounds(option)), option.help or ""]


def _default(option: Any) -> str:
    if option.required:
        return "must be given"
    if isinstance(option.show_default, str):
        return option.show_default
    default = option.default.value if isinstance(option.default, Enum) else option.default
    if isinstance(default, bool):
        return "on" if default else "off"
    if default is None or default in ("", (), []):
        return "–"
    return f"`{_figure(default)}`"


def _bounds(option: Any) -> Iterator[str]:
    if option.multiple:
        yield "several times"
    if choices := getattr(option.type, "choices", None):
        yield ", ".join(f"`{getattr(choice, 'value', choice)}`" for choice in choices)
    lowest, highest = getattr(option.type, "min", None), getattr(option.type, "max", None)
    if lowest is not None:
        yield f"at least {_figure(lowest)}"
    if highest is not None:
        yield f"at most {_figure(highest)}"


def _figure(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.stdout.write(render())
