"""`headway up`: everything on this machine, as child processes of one command, the way production runs them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from cli.box.children import Child, ChildFailed, Children, end_process, environment_of_child
from cli.box.fork_server import ForkServer, can_fork_planes
from cli.box.interruption import Interruption, Terminated
from cli.box.up_lock import AlreadyUp, only_up
from cli.ending import sentence_of
from cli.plane_settings import (
    LoraAlpha,
    LoraRank,
    LoraTargets,
    Promotion,
    ReasoningParser,
    SamplerTensorParallel,
    ToolCallParser,
)
from cli.service.environment import ADMIN_ENV, MEMBER_ENV, environment_of_command, read_env, sdk_exports, write_env
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    CheckpointStoreUrl,
    DataDir,
    LogFormat,
    LogFormatOption,
    OptionalDatabaseUrl,
    open_blobs,
    open_checkpoints,
    stop_with,
)
from sampler.backends.vllm.settings import VllmSettings
from server.principals.roles import Role
from server.process.default_lora import LoraSettings, parts
from store.planes.promotion_policy import PromotionPolicy
from store.private_files import private_data_folder, private_umask
from wire.lora import LoraConfig
from wire.process.exits import DRAIN_S, STOP_S
from wire.process.origins import bracketed, http_origin, listen, local_host

_LORA = LoraConfig()
_SERVED_RANK = "HEADWAY_VLLM_MAX_LORA_RANK"
if TYPE_CHECKING:
    from cli.box.trainers import Trainers

_SAY_EVERY_S, _SAY_ANYWAY_S = 5.0, 15.0
_LOOK_S = 0.2
_OF_FLEETS = (
    "HEADWAY_PLANE_CA",
    "HEADWAY_PLANE_TLS_NAME",
    "HEADWAY_SAMPLER_TOKEN_FILE",
    "HEADWAY_TLS_CERT",
    "HEADWAY_TLS_KEY",
)
"""Not for planes of one machine: they share a token of this run, and speak HTTP by the loopback."""


def up(
    context: typer.Context,
    base: Annotated[
        list[str] | None,
        typer.Option(help="Base model: a Hugging Face id or a path, or SLUG=ID_OR_PATH. Repeat for several."),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one")] = 8420,
    database_url: OptionalDatabaseUrl = None,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    seed: Annotated[int | None, typer.Option(help="Make sampling without a seed reproducible")] = None,
    on_demand: Annotated[
        bool, typer.Option("--on-demand", help="Start trainers when there is work, and end them when there is none")
    ] = False,
    idle_exit_seconds: Annotated[
        float, typer.Option(min=0.1, help="With --on-demand: a trainer ends after so many seconds without work")
    ] = 300.0,
    trainer_gpus: Annotated[
        int,
        typer.Option(
            min=1,
            envvar="HEADWAY_TRAINER_GPUS",
            help="Ranks of each trainer, which share its base, a GPU each; where there is none, processes on the CPU",
        ),
    ] = 1,
    sampler_backend: Annotated[
        str, typer.Option(envvar="HEADWAY_SAMPLER_BACKEND", help="What samplers generate with: local or vllm")
    ] = "local",
    sampler_tensor_parallel: SamplerTensorParallel = 1,
    lora_rank: LoraRank = _LORA.rank,
    lora_alpha: LoraAlpha = _LORA.alpha,
    lora_targets: LoraTargets = ",".join(_LORA.parts),
    tool_call_parser: ToolCallParser = None,
    reasoning_parser: ReasoningParser = None,
    with_runner: Annotated[
        bool, typer.Option("--runner/--no-runner", help="Run a runner, which plays environments here")
    ] = True,
    runner_slots: Annotated[
        int, typer.Option(min=1, help="Builds, sessions and rollouts that the runner carries out at a time")
    ] = 16,
    log_format: LogFormatOption = None,
    promotion: Promotion = PromotionPolicy.ONE,
    share_imports: Annotated[
        bool,
        typer.Option(
            envvar="HEADWAY_SHARE_IMPORTS",
            help="Where there is no GPU, fork trainers and local samplers from one process that has imported torch: "
            "the libraries' memory is theirs together",
        ),
    ] = True,
) -> None:
    """Run server, trainers, samplers and a runner here until Ctrl-C; with `-- COMMAND`, until that command ends.

    Prints the exports that point the SDKs here, with a member's key, and writes them to <data-dir>/env. An operator's
    key is in <data-dir>/admin-env, and printed nowhere.
    """
    from cli.box.trainers import OnDemand, Trainers
    from store.embedded import EmbeddedPostgresFailed
    from wire.process.hub_weights import WeightsOutOfReach

    interruption = Interruption()
    interruption.heed()
    sampler_arguments = ["--backend", sampler_backend, "--tensor-parallel", str(sampler_tensor_parallel)]
    sampler_arguments += ["--seed", str(seed)] if seed is not None else []
    for flag, parser in (("--tool-call-parser", tool_call_parser), ("--reasoning-parser", reasoning_parser)):
        sampler_arguments += [flag, parser] if parser else []
    environment_of_lora = _lora_environment(lora_rank, lora_alpha, lora_targets)
    data_dir = data_dir.resolve()
    open_checkpoints(checkpoint_store, data_dir)  # a URL that is none is better said now than in three logs
    open_blobs(blob_store, data_dir)
    try:
        port = _listenable_port(host, port)
        umask = private_umask()
        private_data_folder(data_dir)
        (data_dir / "logs").mkdir(exist_ok=True)
        origin = http_origin(local_host(host), port)
        with (
            only_up(data_dir, origin),
            _fork_server(data_dir, share_imports and sampler_backend == "local" and trainer_gpus == 1) as fork_server,
            _database(database_url, data_dir) as url,
            Children(data_dir / "logs", fork_server) as children,
            interruption.stopping_after(children.kill),
        ):
            exports, slugs = _prepare(url, data_dir, base or [], origin)
            environment = {**_environment(url, data_dir, on_demand, sampler_backend), "HEADWAY_PROMOTION": promotion}
            environment |= {"HEADWAY_TRAINER_GPUS": str(trainer_gpus)}
            environment |= environment_of_lora
            environment |= {"HEADWAY_CHECKPOINT_STORE": checkpoint_store} if checkpoint_store else {}
            environment |= {"HEADWAY_BLOB_STORE": blob_store} if blob_store else {}
            environment |= {"HEADWAY_LOG_FORMAT": log_format.value} if log_format else {}
            lifetime = OnDemand(idle_exit_seconds) if on_demand else None
            with Trainers(children, url, slugs, environment, lifetime) as trainers:
                _start_planes(children, trainers, environment, slugs, host, port, sampler_arguments)
                if with_runner:
                    _start_runner(children, url, data_dir, origin, runner_slots, log_format)
                _wait_until_ready(children, exports["HUD_API_URL"], slugs, on_demand=on_demand)
                _say_what_was_loaded(url)
                _announce(exports, data_dir)
                status = _tend(trainers, context.args, exports, umask, interruption)
    except (OSError, ValueError, ChildFailed, EmbeddedPostgresFailed, AlreadyUp, WeightsOutOfReach) as error:
        stop_with(sentence_of(error))
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT if context.args else 0
    except Terminated:
        status = 128 + signal.SIGTERM if context.args else 0
    raise typer.Exit(status)


def _listenable_port(host: str, port: int) -> int:
    try:
        with listen(host, port) as probe:
            return probe.getsockname()[1]
    except OSError as error:
        where = f"{bracketed(host)}:{port}"
        raise OSError(f"cannot listen on {where} ({error.strerror}); choose another --host or --port") from None


@contextmanager
def _fork_server(data_dir: Path, is_wanted: bool) -> Generator[ForkServer | None]:
    """Before the database: it imports while that starts."""
    if not (is_wanted and can_fork_planes()):
        yield None
        return
    environment = environment_of_child({"HEADWAY_DATA_DIR": str(data_dir)})
    with ForkServer(data_dir / "logs" / "fork-server.log", environment) as fork_server:
        yield fork_server


@contextmanager
def _database(url: str | None, data_dir: Path) -> Generator[str]:
    """The given database, or an embedded one that is started again when it dies, and stops with us."""
    from store.embedded import EmbeddedPostgres

    if url:
        yield url
        return
    postgres = EmbeddedPostgres(data_dir / "postgres")
    try:
        with postgres.kept_alive():
            yield postgres.url
    finally:
        postgres.stop()


def _prepare(url: str, data_dir: Path, bases: list[str], origin: str) -> tuple[dict[str, str], list[str]]:
    """Schema, base models, and keys; returns the exports for the SDK and the slugs to serve."""
    from cli.commands.bases import choose_bases
    from store.database import DATABASE_UNUSABLE, Database, unusable_reason
    from store.migrations import upgrade

    try:
        upgrade(url)
    except DATABASE_UNUSABLE as error:
        reason = unusable_reason(error)
        if reason is None:
            raise
        raise ValueError(reason) from None
    database = Database(url)
    slugs = choose_bases(database, bases)
    database.close()
    return write_keys(url, data_dir, origin), slugs


def write_keys(url: str, data_dir: Path, origin: str) -> dict[str, str]:
    """Exports for the SDK with a member's key, in `env`, and for operators in `admin-env`, both of the team `default`.

    Keys that are there and still work stay. Earlier versions wrote an admin's key to `env`: it moves.
    """
    from cli.commands.keys import create_key, role_of

    known = [read_env(data_dir / name).get("HUD_API_KEY") for name in (ADMIN_ENV, MEMBER_ENV)]
    keys = {role_of(url, key): key for key in reversed(known) if key}
    files: tuple[tuple[str, Role], ...] = ((ADMIN_ENV, "admin"), (MEMBER_ENV, "member"))
    for name, role in files:
        if role not in keys:
            keys[role] = create_key(url, team="default", name=f"headway up ({role})", role=role)
        write_env(data_dir / name, sdk_exports(origin, keys[role]))
    return sdk_exports(origin, keys["member"])


def _environment(url: str, data_dir: Path, on_demand: bool, sampler_backend: str) -> dict[str, str]:
    return {
        "HEADWAY_DATABASE_URL": url,
        "HEADWAY_DATA_DIR": str(data_dir),
        "HEADWAY_SAMPLER_TOKEN": secrets.token_urlsafe(32),
        **dict.fromkeys(_OF_FLEETS, ""),
        **({"HEADWAY_TRAINERS_ON_DEMAND": "1"} if on_demand else {}),
        # The local backend computes as the trainer does: nothing there to check, for a tenth of a small step.
        **({"HEADWAY_CANARY": "0"} if sampler_backend == "local" else {}),
    }


def _lora_environment(rank: int, alpha: int, targets: str) -> dict[str, str]:
    """For the server, and for a vLLM, which is started so that it loads adapters of that rank unless its own setting
    says something else. Ends the command for targets that there are not."""
    try:
        lora = LoraSettings(rank, alpha, parts(targets)).config
    except ValueError as error:
        stop_with(str(error))
    return {
        "HEADWAY_LORA_RANK": str(rank),
        "HEADWAY_LORA_ALPHA": str(alpha),
        "HEADWAY_LORA_TARGETS": ",".join(lora.parts),
        _SERVED_RANK: os.environ.get(_SERVED_RANK, str(max(rank, VllmSettings().max_lora_rank))),
    }


def _start_planes(
    children: Children,
    trainers: Trainers,
    environment: dict[str, str],
    slugs: list[str],
    host: str,
    port: int,
    sampler_arguments: list[str],
) -> None:
    headway = [sys.executable, "-m", "cli"]
    children.start(Child("server", [*headway, "server", "--host", host, "--port", str(port)], environment))
    trainers.start()
    for slug in slugs:
        command = [*headway, "sampler", "--base", slug, *sampler_arguments]
        stop_s = _drain_s() + STOP_S
        children.start(Child(f"sampler-{slug}", command, environment, stop_s=stop_s, is_forked=True))


def _start_runner(
    children: Children, url: str, data_dir: Path, origin: str, slots: int, log_format: LogFormat | None
) -> None:
    from cli.box.runner import missing_for_a_runner, runner_child

    if (missing := missing_for_a_runner()) is not None:
        typer.echo(f"headway: no runner: it needs {missing}; install headway[runner]", err=True)
        return
    child = runner_child(url, data_dir, origin, slots)
    child.environment |= {"HEADWAY_LOG_FORMAT": log_format.value} if log_format else {}
    children.start(child)


def _drain_s() -> float:
    """As the samplers read it, which complain about anything else."""
    try:
        return float(os.environ.get("HEADWAY_DRAIN_S", DRAIN_S))
    except ValueError:
        return DRAIN_S


def _wait_until_ready(children: Children, origin: str, slugs: list[str], *, on_demand: bool) -> None:
    """Wait as long as the children live: a first start may have to download weights."""
    started, said_at = time.monotonic(), 0.0
    while not _ready(origin, slugs, on_demand=on_demand):
        children.check_started()
        waited_s = time.monotonic() - started
        if waited_s - said_at >= _SAY_EVERY_S and ((far := children.progress()) or waited_s - said_at >= _SAY_ANYWAY_S):
            said_at, parts = waited_s, "".join(f"; {name} has {said}" for name, said in far.items())
            typer.echo(
                f"headway: loading {', '.join(slugs)} for {waited_s:.0f} s{parts} (logs in {children.logs})", err=True
            )
        time.sleep(0.1)


def _ready(origin: str, slugs: list[str], *, on_demand: bool) -> bool:
    import httpx

    try:
        bases = httpx.get(f"{origin}/readyz", timeout=2.0, trust_env=False).json()["bases"]
    except (httpx.HTTPError, ValueError):
        return False
    able = "loaded" if on_demand else "trainers"
    ready = {base["base"] for base in bases if base[able] and base["samplers"]}
    return ready >= set(slugs)


def _say_what_was_loaded(url: str) -> None:
    from store.database import Database
    from store.planes.overview import take_overview

    database = Database(url, pool_size=1)
    with database.session() as session:
        planes = take_overview(session, max_models=1).planes
    database.close()
    typer.echo("")
    for plane in planes:
        if plane.details and plane.state == "live":
            of = f" of {plane.base}" if plane.base else ""
            typer.echo(f"{plane.plane}{of}: {plane.loaded}")


def _announce(exports: Mapping[str, str], data_dir: Path) -> None:
    typer.echo(f"\nHeadway is up at {exports['HUD_API_URL']} (API description at /docs, logs in {data_dir / 'logs'}).")
    typer.echo("Point the SDKs here:\n")
    for name, value in exports.items():
        typer.echo(f"  export {name}={value}")
    typer.echo(f"\nor: source {quote(str(data_dir / MEMBER_ENV))}")
    typer.echo(
        f"Operators: source {quote(str(data_dir / ADMIN_ENV))}\nCtrl-C stops everything; what was trained stays.\n"
    )


def _tend(
    trainers: Trainers, command: list[str], exports: Mapping[str, str], umask: int, interruption: Interruption
) -> int:
    """Keep the children alive until Ctrl-C, or until the command ends, whose exit status is returned."""
    if not command:
        while True:
            trainers.restart_dead()
            time.sleep(_LOOK_S)
    process = _start_command(command, exports, umask)
    with interruption.killing(process.kill):
        try:
            while process.poll() is None:
                trainers.restart_dead()
                time.sleep(_LOOK_S)
            return process.returncode
        finally:
            end_process(process)


def _start_command(command: list[str], exports: Mapping[str, str], umask: int) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(command, env=environment_of_command(exports), umask=umask)
    except OSError as error:
        raise ValueError(f"cannot run {command[0]}: {error.strerror}") from None
