"""`headway server`, `trainer`, `sampler`, `migrate`: one process each, as production runs them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.settings import (
    DEFAULT_DATA_DIR,
    CheckpointStoreUrl,
    DatabaseUrl,
    DataDir,
    GraceS,
    KeepEveryStates,
    KeepLastAdapters,
    KeepLastJobs,
    KeepLastStates,
    KeepPayloadsH,
    KeepPlanesH,
    KeepTracesD,
    LogFormat,
    LogFormatOption,
    MetricsToken,
    Promotion,
    ReasoningParser,
    SamplerToken,
    ToolCallParser,
    blob_root,
    checkpoint_store_url,
    days,
    stop_with,
)
from cli.terminal.settings_options import takes_settings
from sampler.settings import SamplerSettings
from server.process.settings import (
    GarbageCollectionSettings,
    GatewayLimits,
    GuardSettings,
    Limits,
    StopSettings,
    TrainerStart,
    TrainingLimits,
)
from store.planes.promotion import PromotionPolicy
from store.retention.policy import DEFAULT_POLICY, RetentionPolicy
from trainer.settings import TrainerSettings
from wire.process.exits import GAVE_UP_STATUS, GaveUp

Base = Annotated[
    str,
    typer.Option(
        envvar="HEADWAY_BASE", help="Slug of the base model, as registered by `headway up` or `headway migrate`"
    ),
]
_DEFAULT_LIMITS = Limits()


def server(
    database_url: DatabaseUrl,
    sampler_token: SamplerToken,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on")] = 8420,
    max_batch_bytes: Annotated[
        int, typer.Option(envvar="HEADWAY_MAX_BATCH_BYTES", min=1, help="Largest training batch, in bytes of JSON")
    ] = _DEFAULT_LIMITS.training_body_bytes,
    max_batch_tokens: Annotated[
        int,
        typer.Option(envvar="HEADWAY_MAX_BATCH_TOKENS", min=1, help="Largest training batch, in tokens as sent"),
    ] = _DEFAULT_LIMITS.batch_tokens,
    checkpoint_store: CheckpointStoreUrl = None,
    gc_every_s: Annotated[
        float, typer.Option(envvar="HEADWAY_GC_EVERY_S", min=0.0, help="Seconds between collections; 0: none")
    ] = 900.0,
    keep_last_states: KeepLastStates = DEFAULT_POLICY.keep_last_states,
    keep_every_states: KeepEveryStates = DEFAULT_POLICY.keep_every_states,
    keep_last_adapters: KeepLastAdapters = DEFAULT_POLICY.keep_last_adapters,
    keep_payloads_h: KeepPayloadsH = DEFAULT_POLICY.keep_payloads_s / 3600,
    keep_planes_h: KeepPlanesH = DEFAULT_POLICY.keep_planes_s / 3600,
    keep_traces_d: KeepTracesD = None,
    keep_last_jobs: KeepLastJobs = None,
    gc_grace_s: GraceS = DEFAULT_POLICY.grace_s,
    trace_timeout_h: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_TRACE_TIMEOUT_H", min=0.01, help="Hours without a sign after which a rollout is closed"
        ),
    ] = 6.0,
    trainer_start_command: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWAY_TRAINER_START_COMMAND",
            help="Command line (no shell) that starts a trainer for the base in $HEADWAY_BASE: run when one is needed",
        ),
    ] = None,
    trainer_start_webhook: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWAY_TRAINER_START_WEBHOOK", help="URL that gets a POST {base, queued, reason, attempt} instead"
        ),
    ] = None,
    trainer_start_pause_s: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_TRAINER_START_PAUSE_S", min=0.1, help="Seconds between two attempts for a base; doubles"
        ),
    ] = TrainerStart().pause_s,
    trainers_on_demand: Annotated[
        bool, typer.Option(envvar="HEADWAY_TRAINERS_ON_DEMAND", help="Somebody else starts trainers when needed")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(envvar="HEADWAY_SERVER_WORKERS", min=1, help="Processes on the same port; each fills a core"),
    ] = 1,
    max_requests_per_team: Annotated[
        int,
        typer.Option(
            envvar="HEADWAY_MAX_REQUESTS_PER_TEAM",
            min=1,
            help="Chats and completions of a team at once, in each process; as many again wait, more get a 429",
        ),
    ] = GatewayLimits().running_per_team,
    max_training_calls: Annotated[
        int,
        typer.Option(
            envvar="HEADWAY_MAX_TRAINING_CALLS",
            min=1,
            help="Training calls at once, in each process, half of them of one team; more get a 503 (429 of one team)",
        ),
    ] = TrainingLimits().calls,
    metrics_token: MetricsToken = None,
    log_format: LogFormatOption = None,
    promotion: Promotion = PromotionPolicy.ONE,
    stop_delay: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_SERVER_STOP_DELAY_S",
            min=0.0,
            help="Seconds after SIGTERM for which it goes on with /readyz at 503, so that load balancers notice",
        ),
    ] = StopSettings().delay_s,
    stop_grace: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_SERVER_STOP_GRACE_S",
            min=0.0,
            help="Seconds that requests which are being worked on may go on after SIGTERM",
        ),
    ] = StopSettings().grace_s,
    webhook_receivers: Annotated[
        str,
        typer.Option(
            envvar="HEADWAY_WEBHOOK_RECEIVERS",
            help="Hosts, host:port or networks that may get webhooks though they are this machine; with commas",
        ),
    ] = "",
) -> None:
    """Run the control plane: catalog, training API, gateway; and collect what nobody needs any more."""
    from server.main import serve

    _begin("server", log_format)
    serve(
        database_url=database_url,
        blob_root=blob_root(data_dir),
        sampler_token=sampler_token,
        host=host,
        port=port,
        workers=workers,
        metrics_token=metrics_token,
        log_format=log_format and log_format.value,
        gateway_limits=GatewayLimits(max_requests_per_team, max_requests_per_team),
        training_limits=TrainingLimits.of(max_training_calls),
        limits=Limits(training_body_bytes=max_batch_bytes, batch_tokens=max_batch_tokens),
        garbage_collection=GarbageCollectionSettings(
            checkpoint_store_url(checkpoint_store, data_dir),
            RetentionPolicy(
                keep_last_states,
                keep_every_states,
                keep_last_adapters,
                keep_payloads_h * 3600,
                keep_planes_h * 3600,
                gc_grace_s,
                days(keep_traces_d),
                keep_last_jobs,
            ),
            gc_every_s,
            trace_timeout_h * 3600,
        ),
        trainer_start=TrainerStart(trainer_start_command, trainer_start_webhook, trainer_start_pause_s)
        if trainer_start_command or trainer_start_webhook or trainers_on_demand
        else None,
        promotion=promotion,
        stop=StopSettings(stop_delay, stop_grace),
        guard=GuardSettings(webhook_receivers=tuple(filter(None, webhook_receivers.replace(" ", "").split(",")))),
    )


@takes_settings(TrainerSettings)
def trainer(
    database_url: DatabaseUrl,
    base: Base,
    given: dict[str, Any],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    checkpoint_store: CheckpointStoreUrl = None,
    metrics_token: MetricsToken = None,
    log_format: LogFormatOption = None,
    promotion: Promotion = PromotionPolicy.ONE,
) -> None:
    """Run a trainer for one base model."""
    with _extra("trainer"):
        from trainer.main import run

    _begin("trainer", log_format)
    store_url = checkpoint_store_url(checkpoint_store, data_dir)
    shared: dict[str, Any] = {"metrics_token": metrics_token, "promotion": promotion}
    settings = TrainerSettings(database_url, base, store_url, blob_root(data_dir), **shared, **given)
    _or_stop(lambda: run(settings))


@takes_settings(SamplerSettings)
def sampler(
    database_url: DatabaseUrl,
    sampler_token: SamplerToken,
    base: Base,
    given: dict[str, Any],
    data_dir: DataDir = DEFAULT_DATA_DIR,
    checkpoint_store: CheckpointStoreUrl = None,
    vllm_python: Annotated[
        str | None,
        typer.Option(
            envvar="HEADWAY_VLLM_PYTHON",
            help="python of the environment that vLLM is in; default: .venv-vllm beside this one",
        ),
    ] = None,
    vllm_url: Annotated[
        str | None,
        typer.Option(envvar="HEADWAY_VLLM_URL", help="Attach to this server instead, which serves nobody else"),
    ] = None,
    vllm_args: Annotated[
        str, typer.Option(envvar="HEADWAY_VLLM_ARGS", help="More of vLLM's own arguments, as on a command line")
    ] = "",
    vllm_max_lora_rank: Annotated[
        int, typer.Option(envvar="HEADWAY_VLLM_MAX_LORA_RANK", min=1, help="Adapters of a higher rank are refused")
    ] = 64,
    vllm_max_num_seqs: Annotated[
        int,
        typer.Option(
            envvar="HEADWAY_VLLM_MAX_NUM_SEQS",
            min=1,
            help="Sequences that vLLM computes at once; more wait, and teams take turns",
        ),
    ] = 256,
    vllm_adapter_dir: Annotated[
        Path | None,
        typer.Option(envvar="HEADWAY_VLLM_ADAPTER_DIR", help="Folder for adapter files, which vLLM has to reach too"),
    ] = None,
    tool_call_parser: ToolCallParser = None,
    reasoning_parser: ReasoningParser = None,
    metrics_token: MetricsToken = None,
    log_format: LogFormatOption = None,
) -> None:
    """Run a sampler for one base model."""
    with _extra("sampler"):
        from sampler.main import run

    _begin("sampler", log_format)
    store_url = checkpoint_store_url(checkpoint_store, data_dir)
    vllm_options = {
        "url": vllm_url,
        "python": vllm_python,
        "extra_args": tuple(shlex.split(vllm_args)),
        "max_lora_rank": vllm_max_lora_rank,
        "max_num_seqs": vllm_max_num_seqs,
        "adapter_dir": vllm_adapter_dir,
        "tool_call_parser": tool_call_parser,
        "reasoning_parser": reasoning_parser,
    }
    options = vllm_options if given["backend"] == "vllm" else {}
    shared: dict[str, Any] = {"backend_options": options, "metrics_token": metrics_token}
    settings = SamplerSettings(database_url, base, store_url, sampler_token, **shared, **given)
    with _extra("sampler"):  # its backend is imported when it is opened
        _or_stop(lambda: run(settings))


def migrate(
    database_url: DatabaseUrl,
    base: Annotated[list[str] | None, typer.Option(help="Register a base model: SLUG=NAME_OR_PATH")] = None,
) -> None:
    """Bring the database to the newest schema, and register base models."""
    from cli.ending import or_stop
    from store.catalog import ensure_base
    from store.database import Database
    from store.migrations import upgrade

    or_stop(lambda: upgrade(database_url))
    database = Database(database_url)
    for entry in base or ():
        slug, separator, weights = entry.partition("=")
        if not (slug and separator and weights):
            stop_with(f"--base wants SLUG=NAME_OR_PATH, not {entry!r}")
        with database.session() as session:
            ensure_base(session, slug, str(Path(weights).resolve()) if Path(weights).exists() else weights)
    typer.echo("the database is at the newest schema")


def _begin(plane: str, log_format: LogFormat | None) -> None:
    """What every plane does first."""
    from store.private_files import private_umask
    from wire.process.faults import arm_faults
    from wire.process.lifeline import follow_parent
    from wire.process.logging import configure_logging
    from wire.process.tracing import configure_tracing

    configure_logging(plane, log_format and log_format.value)
    configure_tracing(plane)
    private_umask()
    follow_parent()
    arm_faults()


@contextmanager
def _extra(name: str) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        stop_with(f"the {name} needs {missing.name}; install headway[{name}]")


def _or_stop(run: Callable[[], None]) -> None:
    from sqlalchemy.exc import OperationalError

    from wire.errors import HeadwayError

    try:
        run()
    except GaveUp as error:
        stop_with(str(error), GAVE_UP_STATUS)
    except (HeadwayError, OSError, ValueError) as error:
        stop_with(str(error))
    except OperationalError as error:
        stop_with(f"the database does not answer: {str(error.orig).splitlines()[0]}")
