"""Settings of a server process."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from server.process.elastic import ElasticSettings
from store.planes.promotion_policy import PATIENCE_S, PromotionPolicy
from store.pool_queue import QueueLimits
from store.retention.policy import RetentionPolicy
from wire.lora import LoraConfig
from wire.pictures import PictureLimits
from wire.process.options import Option
from wire.process.tls_settings import TrustSettings


def names(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(filter(None, text.replace(" ", "").split(",")))


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a client may send. Bytes and tokens of a training batch are counted while it streams in."""

    training_body_bytes: Annotated[
        int,
        Option("Largest training batch, in bytes of JSON", "HEADWAY_MAX_BATCH_BYTES", "--max-batch-bytes", minimum=1),
    ] = 2 * 1024**3
    batch_tokens: Annotated[
        int,
        Option(
            "Largest training batch, in tokens as sent", "HEADWAY_MAX_BATCH_TOKENS", "--max-batch-tokens", minimum=1
        ),
    ] = 128_000_000
    """Prompt and output tokens as sent: each turn repeats its history."""
    environment_bytes: Annotated[
        int,
        Option(
            "Largest archive of an environment, in bytes",
            "HEADWAY_MAX_ENVIRONMENT_BYTES",
            "--max-environment-bytes",
            minimum=1,
        ),
    ] = 512 * 1024**2
    body_bytes: int = 64 * 1024**2
    """Of a chat, a completion, or an upload of telemetry or tasks."""
    file_bytes: int = 512 * 1024**2
    """Of a file of lines that is uploaded for a run; it is never in memory as a whole."""
    small_body_bytes: int = 1024**2
    """Of every other request with a key."""
    open_body_bytes: int = 8 * 1024
    """Of a request to a route that asks for no key."""
    bodies_in_memory_bytes: int = 256 * 1024**2
    """Of all bodies beyond `small_body_bytes` that are read at once, in one server process. Training batches and
    imports are no part of it: they are worked off while they come."""
    body_wait_s: float = 60.0
    """How long a body waits for its share of that."""


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Chats and completions of one team at once, in one server process; `wait_s`: how long one waits for its turn."""

    running_per_team: Annotated[
        int,
        Option(
            "Chats and completions of a team at once, in each process; as many again wait, more get a 429",
            "HEADWAY_MAX_REQUESTS_PER_TEAM",
            "--max-requests-per-team",
            minimum=1,
        ),
    ] = 4096
    waiting_per_team: int = 4096
    wait_s: float = 60.0

    @classmethod
    def of(cls, running_per_team: int) -> GatewayLimits:
        """So many, and as many that wait."""
        return cls(running_per_team, running_per_team)


@dataclass(frozen=True, slots=True)
class TrainingLimits:
    """Training calls at once in one server process, all of them and those of one team. One that waits takes 60 KB.

    missing_number_s: for so long operations of a client that numbers them wait for a lower number; longer than any
    client goes on sending one.
    """

    calls: Annotated[
        int,
        Option(
            "Training calls at once, in each process, half of them of one team; more get a 503 (429 of one team)",
            "HEADWAY_MAX_TRAINING_CALLS",
            "--max-training-calls",
            minimum=1,
        ),
    ] = 10_000
    calls_per_team: int = 5_000
    missing_number_s: Annotated[
        float,
        Option(
            "Seconds that requests which their client numbers wait for a lower number; then they fail",
            "HEADWAY_MISSING_NUMBER_S",
            "--missing-number-s",
            minimum=1.0,
        ),
    ] = 600.0

    @classmethod
    def of(cls, calls: int, missing_number_s: float = 600.0) -> TrainingLimits:
        """So many, of which no team may have more than half."""
        return cls(calls, -(-calls // 2), missing_number_s)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long a request may wait for other planes. The client gives up after 600 s."""

    operation_s: float = 570.0
    trouble_s: float = 60.0
    """Of that, for a trouble that keeps the operation from being carried out: a full disk, say."""
    sampler_connect_s: float = 5.0
    sampler_read_s: float = 600.0
    samplers_s: float = PATIENCE_S
    """For so long a chat waits while no sampler lives, holds its checkpoint or answers; and a head that is moved, until
    samplers hold the checkpoint."""


@dataclass(frozen=True, slots=True)
class StopSettings:
    """What a server does at SIGTERM. `delay_s`: for so long it goes on, while `/readyz` says 503 and load balancers
    notice; `grace_s`: for so long requests that are being worked on may go on after that."""

    delay_s: Annotated[
        float,
        Option(
            "Seconds after SIGTERM for which it goes on with /readyz at 503, so that load balancers notice",
            "HEADWAY_SERVER_STOP_DELAY_S",
            "--stop-delay",
            minimum=0.0,
        ),
    ] = 0.0
    grace_s: Annotated[
        float,
        Option(
            "Seconds that requests which are being worked on may go on after SIGTERM",
            "HEADWAY_SERVER_STOP_GRACE_S",
            "--stop-grace",
            minimum=0.0,
        ),
    ] = 10.0


@dataclass(frozen=True, slots=True)
class GarbageCollectionSettings:
    """What servers do by themselves: collections, one server at a time (`every_s`: 0 for none), and closing rollouts in
    which nothing has happened for `close_traces_after_s`, looked for every `close_every_s`."""

    checkpoint_store_url: str
    policy: RetentionPolicy = field(default_factory=RetentionPolicy)
    every_s: Annotated[
        float, Option("Seconds between collections; 0: none", "HEADWAY_GC_EVERY_S", "--gc-every-s", minimum=0.0)
    ] = 900.0
    close_traces_after_s: Annotated[
        float,
        Option(
            "Hours without a sign after which a rollout is closed",
            "HEADWAY_TRACE_TIMEOUT_H",
            "--trace-timeout-h",
            minimum=0.01,
            per=3600.0,
        ),
    ] = 6 * 3600.0
    close_every_s: float = 60.0


@dataclass(frozen=True, slots=True)
class GuardSettings:
    """How servers watch over training. `every_s`: between two looks where no notification comes; `settle_s`: for so
    long nothing must have happened in an evaluation job before it is scored; `webhook_receivers`: hosts, `host:port` or
    networks to which webhooks may go although they would be refused, such as a receiver on this very machine."""

    every_s: float = 10.0
    settle_s: Annotated[
        float,
        Option(
            "Seconds without a sign of an evaluation job, none of whose rollouts runs, after which it is scored",
            "HEADWAY_EVALUATION_SETTLE_S",
            "--evaluation-settle-s",
            minimum=0.1,
        ),
    ] = 10.0
    webhook_timeout_s: float = 10.0
    retry_s: float = 10.0
    webhook_receivers: Annotated[
        tuple[str, ...],
        Option(
            "Hosts, host:port or networks that may get webhooks though they are this machine; with commas",
            "HEADWAY_WEBHOOK_RECEIVERS",
            parse=names,
        ),
    ] = ()


@dataclass(frozen=True, slots=True)
class PictureSettings:
    """Which pictures requests may bring. hosts: see `server.pictures.fetching`; a fetch may take `fetch_s` in all."""

    hosts: Annotated[
        tuple[str, ...],
        Option(
            "Hosts, or host:port, from which pictures are fetched by URL, and addresses or networks of those that are "
            "not public; with commas. Without any, requests carry the bytes",
            "HEADWAY_IMAGE_HOSTS",
            "--image-hosts",
            parse=names,
        ),
    ] = ()
    fetch_s: float = 10.0
    limits: PictureLimits = field(default_factory=PictureLimits)


@dataclass(frozen=True, slots=True)
class TrainerStart:
    """How a base with work gets a trainer when it has none: a command line, or a URL to POST to; neither if somebody
    else sees to it. `gpus`: of that trainer. `pause_s`: between two attempts for a base; doubles until a trainer is
    ready."""

    command: Annotated[
        str | None,
        Option(
            "Command line (no shell) that starts a trainer for the base in $HEADWAY_BASE: run when one is needed",
            "HEADWAY_TRAINER_START_COMMAND",
            "--trainer-start-command",
        ),
    ] = None
    webhook: Annotated[
        str | None,
        Option(
            "URL that gets a POST {base, queued, reason, attempt, gpus} instead",
            "HEADWAY_TRAINER_START_WEBHOOK",
            "--trainer-start-webhook",
        ),
    ] = None
    gpus: Annotated[
        int,
        Option(
            "GPUs that a trainer so started shall have: in $HEADWAY_TRAINER_GPUS of the command, and in the POST",
            "HEADWAY_TRAINER_GPUS",
            "--trainer-gpus",
            minimum=1,
        ),
    ] = 1
    pause_s: Annotated[
        float,
        Option(
            "Seconds between two attempts for a base; doubles",
            "HEADWAY_TRAINER_START_PAUSE_S",
            "--trainer-start-pause-s",
            minimum=0.1,
        ),
    ] = 60.0


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Of managed runs. `defaults`: see `server.runs.defaults`."""

    defaults: Annotated[
        Path | None,
        Option(
            "JSON file: by a base's slug, settings of runs where a request does not say",
            "HEADWAY_RUN_DEFAULTS",
            "--run-defaults",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the other planes are, and how much is allowed."""

    database_url: str
    blob_store_url: str
    sampler_token: str
    """Empty where there is a file of them."""
    default_lora: LoraConfig = field(default_factory=LoraConfig)
    limits: Limits = field(default_factory=Limits)
    timeouts: Timeouts = field(default_factory=Timeouts)
    gateway_limits: GatewayLimits = field(default_factory=GatewayLimits)
    training_limits: TrainingLimits = field(default_factory=TrainingLimits)
    garbage_collection: GarbageCollectionSettings | None = None
    trainer_start: TrainerStart | None = None
    """None: trainers are there all the time, or the service is not ready."""
    database_pool_size: int = 20
    """Connections of each of the two kinds (see `store.database`). None is held while a sampler or trainer works."""
    database_queue: QueueLimits = field(default_factory=QueueLimits)
    """Of requests that wait for one of them."""
    metrics_token: str | None = None
    """With it a scraper may read /metrics; without, admins alone."""
    sampler_token_file: Path | None = None
    metrics_token_file: Path | None = None
    """Read in place of the tokens above (`wire.process.tokens`)."""
    promotion: PromotionPolicy = PromotionPolicy.ONE
    """For whom a move of the head by hand waits, at most `timeouts.samplers_s`."""
    workers: int = 1
    """Processes that share the port."""
    guard: GuardSettings = field(default_factory=GuardSettings)
    pictures: PictureSettings = field(default_factory=PictureSettings)
    stop: StopSettings = field(default_factory=StopSettings)
    runs: RunSettings = field(default_factory=RunSettings)
    trust: TrustSettings = field(default_factory=TrustSettings)
    elastic: ElasticSettings = field(default_factory=ElasticSettings)
