"""`headway server`, `trainer`, `sampler`, `runner`, `migrate`: one process each, as production runs them."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.ending import or_stop
from cli.plane_files import check_tls, check_tokens
from cli.plane_settings import Promotion
from cli.runner_key import runner_key
from cli.settings import (
    DEFAULT_DATA_DIR,
    BlobStoreUrl,
    CheckpointStoreUrl,
    DatabaseUrl,
    DataDir,
    LogFormat,
    LogFormatOption,
    MetricsToken,
    MetricsTokenFile,
    SamplerToken,
    SamplerTokenFile,
    blob_store_url,
    checkpoint_store_url,
    stop_with,
)
from cli.terminal.settings_options import Given, takes_settings
from runner.environments.settings import EnvironmentSettings
from runner.settings import RunnerSettings
from sampler.backends.vllm.settings import VllmSettings
from sampler.settings import SamplerSettings
from server.process.default_lora import LoraSettings
from server.process.elastic import ElasticSettings
from server.process.settings import (
    GarbageCollectionSettings,
    GatewayLimits,
    GuardSettings,
    Limits,
    PictureSettings,
    RunSettings,
    StopSettings,
    TrainerStart,
    TrainingLimits,
)
from store.planes.promotion_policy import PromotionPolicy
from store.retention.policy import RetentionPolicy
from trainer.settings import TrainerSettings
from wire.process.tls_settings import TlsSettings, TrustSettings

if TYPE_CHECKING:
    from store.database import Database

Base = Annotated[
    str,
    typer.Option(
        envvar="HEADWAY_BASE", help="Slug of the base model, as registered by `headway up` or `headway migrate`"
    ),
]


@takes_settings(
    Limits,
    GatewayLimits,
    TrainingLimits,
    GarbageCollectionSettings,
    RetentionPolicy,
    TrainerStart,
    StopSettings,
    GuardSettings,
    PictureSettings,
    RunSettings,
    ElasticSettings,
    LoraSettings,
    TlsSettings,
    TrustSettings,
)
def server(
    database_url: DatabaseUrl,
    given: Given,
    sampler_token: SamplerToken = None,
    sampler_token_file: SamplerTokenFile = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    host: Annotated[str, typer.Option(help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on")] = 8420,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    trainers_on_demand: Annotated[
        bool, typer.Option(envvar="HEADWAY_TRAINERS_ON_DEMAND", help="Somebody else starts trainers when needed")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(envvar="HEADWAY_SERVER_WORKERS", min=1, help="Processes on the same port; each fills a core"),
    ] = 1,
    metrics_token: MetricsToken = None,
    metrics_token_file: MetricsTokenFile = None,
    log_format: LogFormatOption = None,
    promotion: Promotion = PromotionPolicy.ONE,
) -> None:
    """Run the control plane: catalog, training API, gateway; and collect what nobody needs any more."""
    from server.main import serve
    from server.runs.defaults import RunDefaults
    from store.schema import require_schema_of

    _begin("server", log_format)
    or_stop(lambda: require_schema_of(database_url))
    runs = RunSettings(**given[RunSettings])
    tls, trust = TlsSettings(**given[TlsSettings]), TrustSettings(**given[TrustSettings])
    check_tls(tls, trust)
    check_tokens((sampler_token, sampler_token_file), (metrics_token, metrics_token_file))
    try:
        RunDefaults.read(runs.defaults)
        default_lora = LoraSettings(**given[LoraSettings]).config
    except (OSError, ValueError) as error:
        stop_with(str(error))
    policy, store_url = RetentionPolicy(**given[RetentionPolicy]), checkpoint_store_url(checkpoint_store, data_dir)
    _check_stores(store_url, blob_store_url(blob_store, data_dir))
    start = TrainerStart(**given[TrainerStart])
    serve(
        database_url=database_url,
        blob_store_url=blob_store_url(blob_store, data_dir),
        sampler_token=sampler_token or "",
        sampler_token_file=sampler_token_file,
        host=host,
        port=port,
        workers=workers,
        metrics_token=metrics_token,
        metrics_token_file=metrics_token_file,
        log_format=log_format and log_format.value,
        gateway_limits=GatewayLimits.of(**given[GatewayLimits]),
        training_limits=TrainingLimits.of(**given[TrainingLimits]),
        limits=Limits(**given[Limits]),
        garbage_collection=GarbageCollectionSettings(store_url, policy, **given[GarbageCollectionSettings]),
        trainer_start=start if start.command or start.webhook or trainers_on_demand else None,
        promotion=promotion,
        stop=StopSettings(**given[StopSettings]),
        guard=GuardSettings(**given[GuardSettings]),
        pictures=PictureSettings(**given[PictureSettings]),
        runs=runs,
        elastic=ElasticSettings(**given[ElasticSettings]),
        default_lora=default_lora,
        tls=tls,
        trust=trust,
    )


@takes_settings(TrainerSettings)
def trainer(
    database_url: DatabaseUrl,
    base: Base,
    given: Given,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    checkpoint_store: CheckpointStoreUrl = None,
    blob_store: BlobStoreUrl = None,
    metrics_token: MetricsToken = None,
    metrics_token_file: MetricsTokenFile = None,
    log_format: LogFormatOption = None,
    promotion: Promotion = PromotionPolicy.ONE,
) -> None:
    """Run a trainer for one base model."""
    from trainer.main import run

    _begin("trainer", log_format)
    stores = checkpoint_store_url(checkpoint_store, data_dir), blob_store_url(blob_store, data_dir)
    shared: dict[str, Any] = {
        "metrics_token": metrics_token,
        "metrics_token_file": metrics_token_file,
        "promotion": promotion,
    }
    _check_stores(*stores)
    settings = TrainerSettings(database_url, base, *stores, **shared, **given[TrainerSettings])
    with _extra("trainer"):  # torch and what comes with it
        or_stop(lambda: run(settings))


@takes_settings(SamplerSettings, VllmSettings, TlsSettings)
def sampler(
    database_url: DatabaseUrl,
    base: Base,
    given: Given,
    sampler_token: SamplerToken = None,
    sampler_token_file: SamplerTokenFile = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    checkpoint_store: CheckpointStoreUrl = None,
    metrics_token: MetricsToken = None,
    metrics_token_file: MetricsTokenFile = None,
    log_format: LogFormatOption = None,
) -> None:
    """Run a sampler for one base model."""
    with _extra("sampler"):
        from sampler.main import run

    _begin("sampler", log_format)
    tls = TlsSettings(**given[TlsSettings])
    check_tls(tls)
    check_tokens((sampler_token, sampler_token_file), (metrics_token, metrics_token_file))
    store_url = checkpoint_store_url(checkpoint_store, data_dir)
    _check_stores(store_url)
    options = given[VllmSettings] if given[SamplerSettings]["backend"] == "vllm" else {}
    shared: dict[str, Any] = {
        "backend_options": options,
        "tls": tls,
        "metrics_token": metrics_token,
        "token_file": sampler_token_file,
        "metrics_token_file": metrics_token_file,
    }
    settings = SamplerSettings(database_url, base, store_url, sampler_token or "", **shared, **given[SamplerSettings])
    with _extra("sampler"):  # its backend is imported when it is opened
        or_stop(lambda: run(settings))


@takes_settings(RunnerSettings, EnvironmentSettings, TlsSettings)
def runner(
    server: Annotated[
        str, typer.Option(envvar="HEADWAY_SERVER_URL", help="Origin of the server, as https://headway.example")
    ],
    given: Given,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="HEADWAY_RUNNER_KEY_FILE",
            help="File with a runner's key as its first line, read again when replaced; default: HEADWAY_RUNNER_KEY",
        ),
    ] = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    log_format: LogFormatOption = None,
) -> None:
    """Run a runner: it plays environments and drives agents for the server at --server."""
    with _extra("runner"):
        from runner.main import run

    _begin("runner", log_format)
    folder = data_dir.resolve() / "runner"
    environments = EnvironmentSettings(**given[EnvironmentSettings])
    tls = TlsSettings(**given[TlsSettings])
    check_tls(tls)
    options: dict[str, Any] = {"tls": tls, "key_file": key_file, **given[RunnerSettings]}
    key = runner_key(key_file)
    or_stop(lambda: run(RunnerSettings(server.rstrip("/"), key, folder, environments, **options)))


def migrate(
    database_url: DatabaseUrl,
    base: Annotated[list[str] | None, typer.Option(help="Register a base model: SLUG=NAME_OR_PATH")] = None,
) -> None:
    """Bring the database to the newest schema, and register base models."""
    from store.database import Database
    from store.migrations import upgrade
    from store.schema import newest_revision

    schema = or_stop(lambda: upgrade(database_url))
    database = Database(database_url)
    for entry in base or ():
        slug, separator, weights = entry.partition("=")
        if not (slug and separator and weights):
            stop_with(f"--base wants SLUG=NAME_OR_PATH, not {entry!r}")
        or_stop(partial(_register_base, database, slug, weights))
    later = f": a later release's, which this one ({newest_revision()}) runs against"
    typer.echo(f"the database has schema {schema.revision}{later if schema.revision != newest_revision() else ''}")


def _register_base(database: Database, slug: str, weights: str) -> None:
    from store.catalog import ensure_base

    with database.session() as session:
        ensure_base(session, slug, str(Path(weights).resolve()) if Path(weights).exists() else weights)


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


def _check_stores(checkpoints: str, blobs: str | None = None) -> None:
    """Ends the command for a URL that names no store. Warns where one is in a bucket and the other in a folder: a
    service that has left shared folders behind for its checkpoints rarely means to share one for blobs."""
    import structlog

    from store.blob_stores import open_blob_store
    from store.checkpoint_stores import open_checkpoint_store

    or_stop(lambda: open_checkpoint_store(checkpoints))
    if blobs is not None:
        or_stop(lambda: open_blob_store(blobs))
    if checkpoints.startswith("s3://") and (blobs or "").startswith("file://"):
        log = structlog.get_logger(__name__)
        log.warning(
            "blobs_in_files",
            reason="checkpoints are in S3: servers and trainers must share this folder, or set HEADWAY_BLOB_STORE",
        )


@contextmanager
def _extra(name: str) -> Generator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        stop_with(f"the {name} needs {missing.name}; install headway[{name}]")
