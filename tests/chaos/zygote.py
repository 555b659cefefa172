"""A process that has imported everything and forks planes on request: a restart takes 0.3 s instead of ten.

What a fork runs is what `headway server`, `trainer`, `sampler` and `runner` run, or another zygote, which has requests
of its own. Requests are lines of JSON on stdin, the answer is the pid. When stdin closes, everything that was forked
dies too, but for other zygotes and what they forked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

INLINE_BYTES = 512
"""Larger payloads and results become blobs; the product's 64 KiB would want batches that take seconds."""


def main() -> None:
    planes = _import_planes()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid:
            _reply({"pid": pid})
        elif "requests" in request:
            _become_zygote(request)
        else:
            _become(request, planes)
    os.killpg(os.getpgid(0), signal.SIGKILL)


def _import_planes() -> Mapping[str, Callable[[Mapping[str, Any]], None]]:
    from store.oplog import append

    append.INLINE_BYTES = INLINE_BYTES  # before the modules that take it by name
    os.fsync = os.fstat  # up to 7 ms each, twenty times a checkpoint; only a power cut would show it
    import peft  # noqa: F401 - torch and all that comes with it
    import transformers  # noqa: F401

    import sampler.main
    import server.app
    import server.main
    import trainer.follower
    import trainer.launcher
    import trainer.leader
    import trainer.main
    from server.process.settings import ServerSettings  # noqa: F401

    _import_models()
    _ = (server.app, server.main, sampler.main, trainer.main, trainer.leader, trainer.follower, trainer.launcher)
    return {"server": _serve, "trainer": _train, "sampler": _sample, "runner": _play}


def _import_models() -> None:
    """What is imported only when a base is loaded."""
    import importlib

    for name in (
        "transformers.models.auto.modeling_auto",
        "transformers.models.qwen2.modeling_qwen2",
        "transformers.models.qwen3.modeling_qwen3",
        "transformers.models.llama.modeling_llama",
        "transformers.models.auto.tokenization_auto",
        "sampler.backends.local",
        "sampler.chat.rendering",
        "peft.tuners.lora.model",
        "jinja2",
        "uvicorn.protocols.http.auto",
        "uvicorn.loops.auto",
        "uvicorn.lifespan.on",
        "uvicorn.protocols.websockets.auto",
    ):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _become_zygote(request: Mapping[str, Any]) -> None:
    """In a group of its own, which ends with its requests."""
    os.setsid()
    os.environ.clear()
    os.environ.update(request["environment"])
    tempfile.tempdir = None
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    reads, writes = os.open(request["requests"], os.O_RDONLY), os.open(request["answers"], os.O_WRONLY)
    for target, source in enumerate((reads, writes, log)):
        os.dup2(source, target)
        os.close(source)
    sys.stdin = os.fdopen(0, closefd=False)  # without what the other has read ahead


def _become(request: Mapping[str, Any], planes: Mapping[str, Callable[[Mapping[str, Any]], None]]) -> None:
    """Never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open(os.devnull, os.O_RDONLY)
    for target, source in enumerate((null, log, log)):
        os.dup2(source, target)
    status = 0
    try:
        if "command" in request:
            _exec(request["command"], request.get("user"), request["folder"])
        _run(request, planes[request["kind"]])
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _exec(command: list[str], user: str | None, folder: str) -> None:
    os.chdir(folder)
    if user:
        import pwd

        entry = pwd.getpwnam(user)
        os.setgroups([])
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
    os.execv(command[0], command)


def _run(request: Mapping[str, Any], plane: Callable[[Mapping[str, Any]], None]) -> None:
    from tests.chaos.sabotage import apply
    from wire.process.faults import arm_faults
    from wire.process.logging import configure_logging

    configure_logging(request["kind"])
    os.environ.update(request["environment"])
    for sabotage in request.get("sabotages", ()):
        apply(sabotage)
    arm_faults()
    plane(request["settings"])


def _serve(settings: Mapping[str, Any]) -> None:
    from server.main import serve

    serve(**settings)


def _train(settings: Mapping[str, Any]) -> None:
    from tests.chaos.forked_ranks import fork_ranks
    from trainer.main import run
    from trainer.settings import TrainerSettings
    from wire.process.faults import arm_faults

    parsed = TrainerSettings(**settings)

    def become_rank() -> None:
        arm_faults()
        run(parsed)

    if parsed.gpus > 1:
        fork_ranks(parsed.gpus, become_rank)
    run(parsed)


def _sample(settings: Mapping[str, Any]) -> None:
    from sampler.main import run
    from sampler.settings import SamplerSettings

    run(SamplerSettings(**settings))


def _play(settings: Mapping[str, Any]) -> None:
    from runner.environments.settings import EnvironmentSettings
    from runner.main import run
    from runner.settings import RunnerSettings

    run(RunnerSettings(**{**settings, "folder": Path(settings["folder"])}, environments=EnvironmentSettings()))


def _reply(answer: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
