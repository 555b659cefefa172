"""A pipelined loop ends in the same bits whatever befalls its requests, and whoever dies meanwhile."""

from __future__ import annotations

import json
import random
import signal
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.box import Box
from tests.chaos.processes import send
from tests.conftest import database_folder
from tests.tinker.disturbing_proxy import at_random, disturbing_proxy
from tests.tinker.program_forks import ProgramForks

_TIMEOUT_S = 1500


@pytest.fixture(scope="module")
def mortal_box(tiny_base: Path) -> Iterator[Box]:
    """A box whose processes are started again when they die."""
    with database_folder() as folder:
        box = Box(folder, tiny_base)
        try:
            yield box.start()
        finally:
            box.close()


def test_lost_answers_duplicates_delays_and_refusals_change_no_bit(mortal_box: Box, forks: ProgramForks):
    expected = _outcome(mortal_box, _loop(mortal_box, forks, mortal_box.url, num_steps=5))
    with disturbing_proxy(lambda: mortal_box.url, at_random(seed=5, share=0.2)) as proxy:
        report = _loop(mortal_box, forks, proxy.url, num_steps=5)
    assert sum(proxy.counts.values()) - proxy.counts["undisturbed"] >= 4, proxy.counts
    assert _outcome(mortal_box, report) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_steps_survive_a_bad_network_and_deaths(mortal_box: Box, forks: ProgramForks, seed: int):
    expected = _outcome(mortal_box, _loop(mortal_box, forks, mortal_box.url, num_steps=100))
    num_deaths = len(mortal_box.deaths)
    disturbs = at_random(seed, share=0.1)
    with disturbing_proxy(lambda: mortal_box.url, disturbs) as proxy, _killing(mortal_box, seed):
        report = _loop(mortal_box, forks, proxy.url, num_steps=100)
    assert len(mortal_box.deaths) - num_deaths >= 3
    assert _outcome(mortal_box, report) == expected


def _loop(box: Box, forks: ProgramForks, url: str, num_steps: int) -> dict[str, Any]:
    environment = {"TINKER_BASE_URL": url, "TINKER_API_KEY": f"tml-{box.key}", "NO_PROXY": "127.0.0.1"}
    arguments = ["tests.tinker.pipelined_loop", "--steps", str(num_steps)]
    ended = forks.run(arguments, environment, _TIMEOUT_S)
    assert ended.returncode == 0, f"{ended.stderr[-3000:]}\n{box.logs()}"
    return json.loads(ended.stdout.splitlines()[-1])


def _outcome(box: Box, report: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on luck: the losses that the client saw, the SHA-256 of each file of what it saved, and
    that each of its calls was carried out once."""
    run_id = report["paths"][0].removeprefix("tinker://").split("/")[0]
    session_id, _, index = run_id.rpartition(":train:")
    of_run = "from models m join {} where m.session_id = %(session)s and m.session_index = %(index)s"
    values = {"session": session_id, "index": int(index)}
    names = "checkpoint_names n on n.model_id = m.id join checkpoints c on c.id = n.checkpoint_id"
    saved = box.query(f"select n.name, c.step, c.manifest {of_run.format(names)} order by n.name", **values)
    operations = "operations o on o.model_id = m.id"
    calls = box.query(
        f"select o.kind, o.state, count(*) as num {of_run.format(operations)} group by 1, 2 order by 1", **values
    )
    nodes = of_run.format("checkpoints c on c.model_id = m.id") + " and c.status = 'committed' and c.step > 0"
    steps = box.query(f"select count(*) as num, count(distinct c.step) as different {nodes}", **values)
    return {
        "losses": report["losses"],
        "names": [path.rsplit("/", 1)[1] for path in report["paths"]],
        "saved": [(row.name, row.step, _digests(row.manifest)) for row in saved],
        "calls": [(row.kind, row.state, row.num) for row in calls],
        "steps": [tuple(row) for row in steps],
    }


def _digests(manifest: dict[str, Any]) -> list[tuple[str, str]]:
    files: dict[str, Any] = manifest["files"]
    return sorted((path, str(facts)) for path, facts in files.items() if path.endswith(".safetensors"))


@contextmanager
def _killing(box: Box, seed: int) -> Generator[None]:
    """The server or the trainer dies every few seconds."""
    draw = random.Random(seed)
    done = threading.Event()

    def kill() -> None:
        while not done.wait(draw.uniform(1.5, 5.0)):
            send(box.pid(draw.choice(["trainer", "trainer", "server"])), signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
