"""`headway server`, `trainer`, `sampler`, `migrate`: one process each, as production runs them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

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
from server.settings import (
    GarbageCollectionSettings,
    GatewayLimits,
    GuardSettings,
    Limits,
    StopSettings,
    TrainerStart,
    TrainingLimits,
)
from store.oplog.leases import LEASE_TTL_S
from store.planes.promotion import PATIENCE_S, PromotionPolicy
from store.retention.policy import DEFAULT_POLICY, RetentionPolicy
from wire.process.exits import DRAIN_S, GAVE_UP_STATUS, GaveUp

Base = Annotated[
    str,
    typer.Option(
        envvar="HEADWAY_BASE", help="Slug of the base model, as registered by `headway up` or `headway migrate`"
    ),
]
_DEFAULT_LIMITS = Limits()

Threads = Annotated[int, typer.Option(min=0, help="CPU threads for torch; 0: one for a tiny base, else one a core")]


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


def trainer(
    database_url: DatabaseUrl,
    base: Base,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    checkpoint_store: CheckpointStoreUrl = None,
    threads: Threads = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:1, say; auto: a GPU if there is one")] = "auto",
    max_tokens_per_pass: Annotated[
        int,
        typer.Option(
            envvar="HEADWAY_MAX_TOKENS_PER_PASS",
            min=1,
            help="What is computed at once; the same on every trainer of a database, for it decides the last bits",
        ),
    ] = 16384,
    max_activation_gib: Annotated[
        float | None,
        typer.Option(
            envvar="HEADWAY_MAX_ACTIVATION_GIB",
            min=0.001,
            help="A pass that would keep more recomputes its layers; default: half of the free GPU memory, 8 on a CPU",
        ),
    ] = None,
    max_resident_gib: Annotated[
        float | None,
        typer.Option(
            envvar="HEADWAY_MAX_RESIDENT_GIB",
            min=0.001,
            help="Weights, gradients and moments on the device; models beyond it are parked; default: no limit",
        ),
    ] = None,
    max_grad_norm: Annotated[
        float | None,
        typer.Option(
            envvar="HEADWAY_MAX_GRAD_NORM", min=1e-9, help="Clip gradients where a call does not say; default: never"
        ),
    ] = None,
    canary: Annotated[
        bool,
        typer.Option(envvar="HEADWAY_CANARY", help="Write logprobs that vLLM samplers check themselves by"),
    ] = True,
    keep_logprobs: Annotated[
        bool,
        typer.Option(
            envvar="HEADWAY_KEEP_LOGPROBS", help="Keep the trainer's logprobs of recorded rollouts, for their pages"
        ),
    ] = True,
    lease_ttl: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_LEASE_TTL_S",
            min=1.0,
            help="Seconds of silence after which another trainer takes this one's models over",
        ),
    ] = LEASE_TTL_S,
    idle_lease: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_IDLE_LEASE_S", min=0.1, help="Seconds after which a model without work is given up"
        ),
    ] = 600.0,
    stop_grace: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_STOP_GRACE_S",
            min=0.0,
            help="Seconds that what cannot be interrupted may go on after SIGTERM",
        ),
    ] = 10.0,
    watchdog: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_WATCHDOG_S", min=1.0, help="A trainer whose engine takes longer for one micro-batch ends"
        ),
    ] = 1800.0,
    idle_exit_seconds: Annotated[
        float | None,
        typer.Option(
            envvar="HEADWAY_IDLE_EXIT_SECONDS", min=0.1, help="End after so many seconds without work; default: never"
        ),
    ] = None,
    metrics_port: Annotated[
        int | None,
        typer.Option(
            envvar="HEADWAY_METRICS_PORT", min=0, max=65535, help="Serve /metrics there; 0: any free one; default: not"
        ),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option(envvar="HEADWAY_METRICS_HOST", help="Address for it; any but this machine's wants a token")
    ] = "127.0.0.1",
    metrics_token: MetricsToken = None,
    log_format: LogFormatOption = None,
    promotion: Promotion = PromotionPolicy.ONE,
    promotion_timeout: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_PROMOTION_TIMEOUT_S", min=1.0, help="Seconds that a step waits for samplers at most"
        ),
    ] = PATIENCE_S,
) -> None:
    """Run a trainer for one base model."""
    with _extra("trainer"):
        from trainer.main import TrainerSettings, run

    _begin("trainer", log_format)
    store_url = checkpoint_store_url(checkpoint_store, data_dir)
    settings = TrainerSettings(
        database_url,
        base,
        store_url,
        blob_root(data_dir),
        threads,
        device,
        max_tokens_per_pass=max_tokens_per_pass,
        max_activation_gib=max_activation_gib,
        max_resident_gib=max_resident_gib,
        max_grad_norm=max_grad_norm,
        canary=canary,
        keep_logprobs=keep_logprobs,
        lease_ttl_s=lease_ttl,
        idle_lease_s=idle_lease,
        stop_grace_s=stop_grace,
        idle_exit_s=idle_exit_seconds,
        metrics_port=metrics_port,
        metrics_host=metrics_host,
        metrics_token=metrics_token,
        promotion=promotion,
        promotion_timeout_s=promotion_timeout,
        watchdog_s=watchdog,
    )
    _or_stop(lambda: run(settings))


def sampler(
    database_url: DatabaseUrl,
    sampler_token: SamplerToken,
    base: Base,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    checkpoint_store: CheckpointStoreUrl = None,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one")] = 0,
    advertise: Annotated[str | None, typer.Option(help="URL under which the gateway reaches this sampler")] = None,
    backend: Annotated[str, typer.Option(help="What generates: local or vllm")] = "local",
    seed: Annotated[int | None, typer.Option(help="Make requests without a seed reproducible")] = None,
    threads: Threads = 0,
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
    linger_s: Annotated[
        float,
        typer.Option(
            envvar="HEADWAY_SAMPLER_LINGER_S",
            min=0.0,
            help="Seconds that an adapter stays which nothing serves any more",
        ),
    ] = 60.0,
    tool_call_parser: ToolCallParser = None,
    reasoning_parser: ReasoningParser = None,
    metrics_token: MetricsToken = None,
    log_format: LogFormatOption = None,
    drain: Annotated[
        float,
        typer.Option(envvar="HEADWAY_DRAIN_S", min=0.0, help="Seconds that requests under way may go on after SIGTERM"),
    ] = DRAIN_S,
) -> None:
    """Run a sampler for one base model."""
    with _extra("sampler"):
        from sampler.main import SamplerSettings, run

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
    settings = SamplerSettings(
        database_url,
        base,
        store_url,
        sampler_token,
        host,
        port,
        advertise,
        backend,
        seed,
        threads,
        backend_options=vllm_options if backend == "vllm" else {},
        linger_s=linger_s,
        metrics_token=metrics_token,
        drain_s=drain,
    )
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
