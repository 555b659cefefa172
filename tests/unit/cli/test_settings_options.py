from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from cli.terminal.settings_options import Given, _declared, takes_settings
from sampler.backends.vllm.settings import VllmSettings
from server.process.settings import GuardSettings
from store.retention.policy import RetentionPolicy
from wire.process.options import Option


@dataclass(frozen=True)
class Settings:
    url: str
    size: Annotated[int, Option("How large", "PLANTED_SIZE", minimum=2)] = 7
    lease_s: Annotated[float | None, Option("How long", flag="--lease")] = None
    hidden: str = "x"
    kept_s: Annotated[float, Option("Hours", flag="--kept-h", per=3600.0, minimum=1.0)] = 7200.0
    hosts: Annotated[tuple[str, ...], Option("Some", parse=lambda text: tuple(text.split()))] = ()


def run(*arguments: str, **environment: str) -> list[Any]:
    made: list[Any] = []
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    @takes_settings(Settings)
    def command(url: Annotated[str, typer.Option()], given: Given, hidden: str = "y") -> None:
        """Do it."""
        made.append(Settings(url, hidden=hidden, **given[Settings]))

    result = CliRunner().invoke(app, arguments, env=environment)
    return made or [result.exit_code, result.output]


def test_fields_are_options_with_their_defaults():
    assert run("--url", "u") == [Settings("u", 7, None, "y")]


def test_flags_and_the_environment_give_them():
    assert run("--url", "u", "--lease", "1.5", "--hidden", "z", PLANTED_SIZE="9") == [Settings("u", 9, 1.5, "z")]


def test_other_units_and_texts_become_what_the_field_holds():
    assert run("--url", "u", "--kept-h", "1.5", "--hosts", "a b") == [
        Settings("u", 7, None, "y", kept_s=5400.0, hosts=("a", "b"))
    ]
    assert "default: 2.0" in run("--help")[1]


@pytest.mark.parametrize(
    ("settings", "field", "given", "taken"),
    [
        (VllmSettings, "extra_args", "--dtype 'a b'", ("--dtype", "a b")),
        (GuardSettings, "webhook_receivers", "a, b:1,", ("a", "b:1")),
        (RetentionPolicy, "keep_payloads_s", 2.0, 7200.0),
    ],
)
def test_what_is_given_to_our_commands_is_what_their_settings_hold(settings, field, given, taken):
    (declared,) = [one for one in _declared(settings) if one.name == field]
    assert declared.option.taken(given) == taken
    assert declared.option.taken(declared.parameter.default) == {f.name: f.default for f in fields(settings)}[field]


def test_bounds_are_checked():
    status, output = run("--url", "u", "--size", "1")
    assert status == 2
    assert "2" in output


def test_help_says_what_the_field_says():
    _, output = run("--help")
    for words in ("How large", "PLANTED_SIZE", "default: 7", "--lease", "How long", "Do it."):
        assert words in output
