"""The race compares equal work, names who cannot take part, and counts all of a contender's processes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from tinker import types
from transformers import Qwen3Config

from bench.batches import Shape
from bench.models import build_model
from bench.peers import race, sdk_driver
from bench.peers.base import make_base
from bench.peers.contender import MAX_MODELS, Contender, Failed, Running
from bench.peers.contenders import ABSENT, CONTENDERS
from bench.peers.race import Found, check, far_behind, race_rounds
from bench.peers.readme_table import markdown
from bench.peers.report import differences, table, times_faster, to_json
from bench.peers.schedule import Schedule
from bench.peers.trl_driver import Driver
from bench.peers.workloads import WORKLOADS, Workload, load_rows, make_rows
from bench.process_tree import MARK, cpu_s, end, marked, pss_mib
from tests.unit.bench.test_bench import TINY

pytestmark = pytest.mark.filterwarnings("ignore")
CONFIG = Qwen3Config.from_dict({**TINY.to_dict(), "vocab_size": 300})
TREE = Shape(1, 4, 2, prompt=(8, 13), output=(2, 6), observation=(2, 4))


def test_rows_survive_the_file_that_contenders_read(tmp_path: Path):
    rows = make_rows(build_model(CONFIG), TREE)
    rows.save(tmp_path / "rows.json")
    for before, after in zip(rows.rows, load_rows(tmp_path / "rows.json"), strict=True):
        for field in ("ids_T", "is_action_T", "sampling_logprobs_T", "advantages_T"):
            assert torch.equal(getattr(before, field), getattr(after, field))


def test_a_trajectory_that_is_a_group_by_itself_still_has_a_gradient():
    (row,) = make_rows(build_model(CONFIG), dataclasses.replace(TREE, group_size=1)).rows
    assert torch.equal(row.advantages_T, row.is_action_T.float())


def test_who_computes_the_base_passes_and_who_does_not_is_named():
    rows = make_rows(build_model(CONFIG), TREE)
    own = [logprobs.tolist() for logprobs in rows.base_logprobs]
    check({"logprobs": own}, rows)
    check({"loss": rows.loss(rows.base_logprobs)}, rows)
    with pytest.raises(Failed, match="logprob is off by 5"):
        check({"logprobs": [[value + 0.5 for value in row] for row in own]}, rows)
    with pytest.raises(Failed, match="its loss is"):
        check({"loss": rows.loss(rows.base_logprobs) * 1.1}, rows)


def test_trl_computes_the_loss_that_the_services_do(tmp_path: Path):
    make_base(tmp_path / "base", CONFIG)
    rows = make_rows(build_model(CONFIG), TREE)
    rows.save(tmp_path / "rows.json")
    driver = Driver(str(tmp_path / "base"), 2)
    driver.load(str(tmp_path / "rows.json"))
    driver.step(models=1, pipelined=False)
    check(driver.check(), rows)


def test_a_datum_is_the_row_a_token_apart(tmp_path: Path):
    rows = make_rows(build_model(CONFIG), TREE)
    rows.save(tmp_path / "rows.json")
    fields = json.loads((tmp_path / "rows.json").read_text())[0]
    datum = sdk_driver.datum_of(fields)
    assert isinstance(datum, types.Datum)
    assert datum.model_input.to_ints() == fields["ids"][:-1]
    assert list(datum.loss_fn_inputs["target_tokens"].data) == fields["ids"][1:]
    assert list(datum.loss_fn_inputs["advantages"].data) == pytest.approx(fields["advantages"][1:])


def test_the_table_has_ratios_round_by_round_and_says_who_is_missing():
    ours, theirs = Found([1.0, 2.0], [0.5, 0.5], 900, 800), Found([3.0, 2.0], [1.0, 1.0], 500, 400)
    found = {"headway": ours, "tuft": theirs, "trl": Found(missing="one model a process")}
    assert times_faster(ours, theirs) == {"median": 2.0, "min": 1.0, "max": 3.0}
    lines = table("flat", found).splitlines()
    assert "2.00×" in lines[3]
    assert "1.00–3.00" in lines[3]
    assert lines[4].endswith("one model a process")
    assert to_json(found)["trl"] == {"missing": "one model a process"}
    assert times_faster(None, theirs) is None


def test_everyone_is_in_the_race_or_named():
    assert CONTENDERS.keys() == {"headway", "trl", "tuft", "skyrl"}
    said = differences(list(CONTENDERS.values()), ABSENT)
    assert all(name in said for name in (*CONTENDERS, *ABSENT))
    assert max(workload.models for workload in WORKLOADS.values()) < MAX_MODELS


def test_processes_are_counted_by_their_mark_wherever_they_went():
    script = "import os, time; os.fork() or os.setsid(); x = sum(range(3_000_000)); time.sleep(60)"
    started = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, MARK: "test-of-marks"})
    try:
        while len(marked("test-of-marks")) < 2 or cpu_s(marked("test-of-marks")) < 0.02:
            assert started.poll() is None
        assert pss_mib(marked("test-of-marks")) > 1
    finally:
        end("test-of-marks")
        started.wait(10)
    assert marked("test-of-marks") == []


def test_the_table_of_the_readme_comes_from_the_json_line():
    ours, theirs = Found([0.5, 0.7], [0.5, 0.5], 900, 800), Found([1.2, 1.2], [1.0, 1.0], 500, 400)
    found = to_json({"headway": ours, "tuft": theirs, "trl": Found(missing="one model a process")})
    lines = markdown({"idle": {"8 models": {"contenders": found}}}).splitlines()
    assert lines[0] == "| batch | headway | tuft | trl |"
    assert lines[2] == "| 8 models | **600 ms** | 1.20 s (2.06×) | – |"


_DRIVER = """
import sys, time
print("{}", flush=True)
for number, line in enumerate(sys.stdin):
    %s
    print('{"seconds": 0.5}', flush=True)
"""
_DIES, _HANGS, _ANSWERS = "number == 2 and sys.exit('out of memory')", "number == 2 and time.sleep(60)", "pass"


@contextmanager
def _started(root: Path, **drivers: str) -> Generator[dict[str, Running]]:
    def contender(name: str, does: str) -> Contender:
        return Contender(name, "", lambda _, running: running.drive([sys.executable, "-c", _DRIVER % does]))

    running = {name: Running(root, contender(name, does)) for name, does in drivers.items()}
    try:
        for one in running.values():
            one.start()
        yield running
    finally:
        for one in running.values():
            one.end()


def test_who_dies_or_hangs_is_out_with_the_reason_and_can_be_started_again(tmp_path: Path):
    workload, out = Workload(TREE), dict[str, str]()
    with (
        patch.object(race, "_LONGEST_ROUND_S", 1.5),
        patch.object(race, "_REST_S", 0),
        _started(tmp_path, good=_ANSWERS, dead=_DIES, hung=_HANGS) as running,
    ):
        found = race_rounds(workload, running, out, 4, lambda: False)
        assert found["good"].seconds == [0.5] * 4
        assert out == {"dead": "out of memory", "hung": "no answer in 2 s"}
        assert [name for name, one in running.items() if not one.is_up] == ["dead", "hung"]
        assert race_rounds(workload, running, out, 1, lambda: False)["hung"].missing == "no answer in 2 s"
        running["hung"].start()
        assert running["hung"].ask("step") == {"seconds": 0.5}


def test_who_is_too_slow_is_out_and_stays_up(tmp_path: Path):
    out = dict[str, str]()
    with (
        patch.object(race, "_LONGEST_ROUND_S", 1.0),
        patch.object(race, "_REST_S", 0),
        _started(tmp_path, one=_ANSWERS) as running,
    ):
        race_rounds(Workload(TREE, steps=3), running, out, 2, lambda: False)
        assert out == {"one": "too slow: 0.5 s a step"}
        assert running["one"].is_up


def test_who_is_far_behind_is_named_with_how_far():
    found = {"fast": Found([0.5, 0.4, 0.6]), "slower": Found([9.0, 9.5]), "far": Found([20.0, 22.0]), "no": Found()}
    assert far_behind(found, "tree") == {"far": "left out after 'tree': 42 times the fastest there"}
    assert far_behind({"no": Found()}, "tree") == {}


def test_rounds_get_fewer_when_the_time_is_over_but_are_two(tmp_path: Path):
    with patch.object(race, "_REST_S", 0), _started(tmp_path, one=_ANSWERS) as running:
        assert race_rounds(Workload(TREE), running, {}, 5, lambda: True)["one"].seconds == [0.5, 0.5]


def test_what_a_part_of_the_race_does_not_need_is_the_next_ones():
    now = [0.0]
    schedule = Schedule(1, 3, lambda: now[0])
    with schedule.place() as is_over:
        now[0] = 19
        assert not is_over()
        now[0] = 20
        assert is_over()
        now[0] = 10
    with schedule.place() as is_over:
        now[0] = 34.9
        assert not is_over()
        now[0] = 35
        assert is_over()
    assert schedule.progress().startswith("2 of 3 tables after 0.6 minutes; ends at about ")
    now[0] = 100
    with schedule.place() as is_over:
        assert is_over()
