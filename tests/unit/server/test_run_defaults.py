"""An operator's file of settings for the runs of each base."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from server.runs.defaults import RunDefaults
from server.runs.settings import RunConfig
from wire.errors import InvalidRequest


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "runs.json"


def test_what_a_request_says_wins_and_other_bases_keep_their_defaults(file: Path):
    file.write_text('{"tiny": {"learning_rate": 7e-4, "steps": 30}}')
    defaults = RunDefaults.read(file)
    laid = defaults.laid_under(RunConfig(steps=5), "tiny", 8)
    assert (laid.steps, laid.learning_rate, laid.group_size) == (5, 7e-4, 8)
    assert defaults.laid_under(RunConfig(), "other", 8) == RunConfig()
    assert RunDefaults.read(None).laid_under(RunConfig(), "tiny", 8) == RunConfig()


def test_of_a_small_taskset_all_tasks_are_taken(file: Path):
    file.write_text('{"tiny": {"tasks_per_step": 8}}')
    defaults = RunDefaults.read(file)
    assert defaults.laid_under(RunConfig(), "tiny", 3).tasks_per_step is None
    assert defaults.laid_under(RunConfig(), "tiny", 9).tasks_per_step == 8
    assert defaults.laid_under(RunConfig(tasks_per_step=5), "tiny", 3).tasks_per_step == 5, "that is refused by name"


def test_settings_that_do_not_fit_together_are_refused_when_they_meet(file: Path):
    file.write_text('{"tiny": {"warmup_steps": 10}}')
    with pytest.raises(InvalidRequest, match="this server's defaults for 'tiny': warmup_steps is 10, more than steps"):
        RunDefaults.read(file).laid_under(RunConfig(steps=5), "tiny", 8)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "should be an object of settings by the slug"),
        ('{"tiny": 3}', "the settings of 'tiny' should be an object"),
        (json.dumps({"tiny": {"lr": 1e-4}}), "the settings of 'tiny': lr: Extra inputs are not permitted"),
        (json.dumps({"tiny": {"steps": 0}}), "the settings of 'tiny': steps: Input should be greater than"),
        ("{", "run defaults in .*runs.json"),
    ],
)
def test_a_wrong_file_is_refused_when_the_server_starts(file: Path, content: str, said: str):
    file.write_text(content)
    with pytest.raises(ValueError, match=said):
        RunDefaults.read(file)
