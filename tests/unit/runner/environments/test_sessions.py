"""How versions are built, how their sessions start and end, and what those may ask of the gateway."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runner.environments.base import BuildFailed, StartFailed
from runner.environments.caches import evict
from runner.environments.opening import NoIsolation, choose_isolation
from runner.environments.sandboxing import own_prefixes
from runner.environments.settings import Gateway
from tests.http_servers import serving
from tests.unit.runner.environments.played import RUNS_CODE, SMALL, Played, playing, run


class Recorder(BaseHTTPRequestHandler):
    """A gateway that answers with what it was sent."""

    protocol_version = "HTTP/1.1"
    seen: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.seen.append({"path": self.path, "headers": headers, "body": body})
        answer = json.dumps({"choices": [], "echo": body}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    Recorder.seen.clear()
    with serving(server):
        yield Gateway(f"http://127.0.0.1:{server.server_port}/", {"reds": "hw-key-of-reds"}.get)


CALLS = """
    import json, os, urllib.request, urllib.error
    result = []
    calls = (("POST", "/v1/chat/completions"), ("POST", "/v2/runs"), ("GET", "/v1/models"), ("POST", "/v1/../v2/x"))
    for method, path in calls:
        headers = {"Authorization": "Bearer " + os.environ["HUD_API_KEY"], "Trace-Id": "x", "Headway-Rollout": "x"}
        url = os.environ["HUD_GATEWAY_URL"] + path
        request = urllib.request.Request(url, b'{"model":"m"}', method=method, headers=headers)
        try:
            result.append(json.loads(urllib.request.urlopen(request).read())["echo"])
        except urllib.error.HTTPError as error:
            result.append(error.code)
"""


async def test_it_is_built_served_and_cleaned_up(tmp_path: Path, gateway: Gateway) -> None:
    files = {"env.py": RUNS_CODE, "Dockerfile": "ENV GREETING=hello\nRUN make world"}
    async with playing(files, tmp_path, gateway=gateway, variables={"SECRET": "s3"}) as played:
        manifest = await played.environments.build(played.spec, played.archive, played.lines.append, 60)
        assert [task["id"] for task in manifest["tasks"]] == ["run"]
        assert manifest["tasks"][0]["args"]["required"] == ["code"]
        assert manifest["capabilities"] == []
        assert "not run: RUN make world" in played.lines
        assert "serving env.py" in played.lines

        async with played.session("reds", "trace-1") as session:
            variables = "import os; result = [os.environ[name] for name in ('GREETING', 'SECRET', 'USER')]"
            assert await run(session, variables) == "['hello', 's3', 'user']"
            assert await run(session, CALLS) == '[\'{"model":"m"}\', 403, 403, 403]'
            (call,) = Recorder.seen
            assert call["path"] == "/v1/chat/completions"
            assert call["headers"]["authorization"] == "Bearer hw-key-of-reds"
            assert call["headers"]["headway-rollout"] == "trace-1"
            assert "trace-id" not in call["headers"]
        for team, trace_id in (("reds", None), ("blues", "trace-2")):
            async with played.session(team, trace_id) as session:
                assert await run(session, CALLS) == "[403, 403, 403, 403]"
        assert len(Recorder.seen) == 1

        cgroups = played.environments._sandboxes.cgroups
        parents = [] if cgroups is None else cgroups._parents.values()
        assert [group for parent in parents for group in parent.glob("session*")] == []


async def test_the_log_of_an_environment_without_tasks_says_what_it_lacks(tmp_path: Path) -> None:
    async with playing({"env.py": "from hud import Environment\nenv = Environment('Runs Code')\n"}, tmp_path) as played:
        await played.environments.build(played.spec, played.archive, played.lines.append, 60)
        assert any(line.startswith("hint: the environment has no tasks") for line in played.lines)


async def test_many_start_at_once(played: Played) -> None:
    sessions = await asyncio.gather(*(played.start() for _ in range(6)))
    try:
        answers = await asyncio.gather(*(run(each, f"result = {n}") for n, each in enumerate(sessions)))
        assert answers == [str(n) for n in range(6)]
        assert len({each.address for each in sessions}) == 6
    finally:
        await asyncio.gather(*(each.stop() for each in sessions))


async def test_large_answers_pass(played: Played) -> None:
    async with played.session() as session:
        assert len(await run(session, "result = 'x' * 6_000_000")) == 6_000_000


async def test_an_environment_that_ends_says_so(played: Played) -> None:
    async with played.session() as session:
        dies = "import os, sys; sys.stderr.write('no more money\\n'); os._exit(3)"
        with pytest.raises((AssertionError, OSError)):
            await run(session, dies)
        async with asyncio.timeout(5):
            assert await session.ended == "no more money"
        with pytest.raises(OSError, match=r"."):
            await session.connect()
    await session.stop()


@pytest.mark.slow
async def test_a_fork_server_that_was_killed_is_replaced(played: Played) -> None:
    async with played.session() as session:
        (served,) = played.environments._served.values()
        assert served._server is not None
        os.kill(served._server.pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            await session.ended
    async with played.session() as session:
        assert await run(session, "result = 1") == "1"


FAILING = {
    "raises as it is imported": ("raise RuntimeError('no luck today')\n", "RuntimeError: no luck today"),
    "ends by itself": ("import sys\nsys.exit('I am not an environment')\n", "I am not an environment"),
    "hangs": ("import time\ntime.sleep(60)\n", "did not answer within 2 s"),
}


@pytest.mark.slow
async def test_each_failure_to_start_is_one_sentence(tmp_path: Path) -> None:
    for what, (code, sentence) in FAILING.items():
        (tmp_path / what).mkdir()
        limits = {"runtime_config": {"limits": {"startup_timeout_s": 2}}}
        async with playing({"env.py": code + RUNS_CODE}, tmp_path / what, **limits) as played:
            with pytest.raises(BuildFailed) as failed:
                await played.environments.build(played.spec, played.archive, played.lines.append, 60)
            assert sentence in str(failed.value)


@pytest.mark.slow
async def test_slow_environments_are_kept_warm(tmp_path: Path) -> None:
    settings = replace(SMALL, slow_start_s=0.4, warm_sessions=1)
    slow = {"env.py": "import time\ntime.sleep(0.5)\n" + RUNS_CODE}
    async with playing(slow, tmp_path, settings=settings) as played, played.session():
        (served,) = played.environments._served.values()
        async with asyncio.timeout(20):
            while not served._warm:  # noqa: ASYNC110  # nothing announces it
                await asyncio.sleep(0.05)
        started = time.monotonic()
        async with played.session() as warm:
            assert time.monotonic() - started < 0.3
            assert await run(warm, "result = 1") == "1"


async def test_what_is_not_to_be_run_here_is_refused(played: Played) -> None:
    for change, sentence in (
        ({"source": "builtin", "name": "headway-unknown"}, "no built-in environment headway-unknown"),
    ):
        spec = played.spec.model_copy(update=change)
        with pytest.raises(BuildFailed, match=sentence):
            await played.environments.build(spec, None, played.lines.append, 10)
    other = played.spec.model_copy(update={"variables": {"A": "1"}})
    with pytest.raises(StartFailed, match="has no archive"):
        await played.environments.start(other, None, "ab", "reds", played.lines.append)


def test_nothing_isolates_unless_it_is_asked_for() -> None:
    assert choose_isolation("none").name == "none"
    assert choose_isolation("auto").name != "none"
    with pytest.raises(NoIsolation, match="no isolation 'magic'; known: auto, namespaces, landlock, none"):
        choose_isolation("magic")


def test_the_least_recently_used_goes_first(tmp_path: Path) -> None:
    now = time.time()
    for age, name in enumerate(("new", "used", "old", "older")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").write_bytes(bytes(100_000))
        os.utime(tmp_path / name, (now - 3600 * age, now - 3600 * age))
    removed = evict(tmp_path.iterdir(), {tmp_path / "used"}, 250_000, now)
    assert [path.name for path in removed] == ["older", "old"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "used"]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of modules."""
    tmp_path.chmod(0o755)
    folder = tmp_path / "a prefix"
    folder.mkdir()
    (folder / "late.py").write_text("NAME = 'imported late'")
    return folder


async def test_what_python_has_in_a_folder_for_temporary_files_is_seen(
    tmp_path: Path, installed: Path, monkeypatch: pytest.MonkeyPatch
):
    """As where Headway is installed in /tmp: its packages are imported when a session asks, not before."""
    monkeypatch.setattr("runner.environments.sandboxing.own_prefixes", lambda: (*own_prefixes(), installed))
    code = f"import sys; sys.path.append({str(installed)!r}); import late; result = late.NAME"
    async with playing({"env.py": RUNS_CODE}, tmp_path) as played, played.session() as session:
        assert await run(session, code) == "imported late"
        assert "Read-only" in await run(
            session, f"try: open({str(installed / 'new')!r}, 'w')\nexcept OSError as e: result = e"
        )
