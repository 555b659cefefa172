"""Settings of a trainer process, with the options that give them. Importing this imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from store.planes.heartbeats import LEASE_TTL_S
from store.planes.promotion_policy import PATIENCE_S, PromotionPolicy
from wire.process.options import Option
from wire.process.product_dtype import PRODUCTS, ProductDtype

_TINY = 1e-9

GROUP_LEASE_TTL_S = 300.0
"""Of several ranks, where nobody says else: one of them may compile its attention anew, or compute the longest
trajectory that it has room for, while the others wait."""
_SHARE_OF_A_COLLECTIVE = 0.75


@dataclass(frozen=True, slots=True)
class TrainerSettings:
    """Where things are, and which base to train on.

    stop_grace_s: after SIGTERM, what cannot be ended half way may go on for so long before it is handed back.
    promotion: whom a new checkpoint waits for, at most promotion_timeout_s.
    """

    database_url: str
    base_slug: str
    checkpoint_store_url: str
    blob_store_url: str
    threads: Annotated[
        int, Option("CPU threads for torch; 0: one a core, and one for short passes of a tiny base", minimum=0)
    ] = 0
    device: Annotated[str, Option("cpu, cuda or cuda:1, say; auto: a GPU if there is one")] = "auto"
    products: Annotated[ProductDtype, PRODUCTS] = ProductDtype.FLOAT32
    gpus: Annotated[
        int,
        Option(
            "Ranks of this host that compute together, a GPU each; where there is none, processes on the CPU",
            "HEADWAY_TRAINER_GPUS",
            minimum=1,
        ),
    ] = 1
    max_tokens_per_pass: Annotated[
        int,
        Option(
            "Most tokens of a micro-batch; the same on every trainer of a database, for it decides the last bits",
            "HEADWAY_MAX_TOKENS_PER_PASS",
            minimum=1,
        ),
    ] = 16384
    min_shard_tokens: Annotated[
        int | None,
        Option(
            "Tokens that a part of a batch must have to be computed by a rank of its own; the same on every trainer of "
            "a database; default: what keeps a GPU busy with the base",
            "HEADWAY_MIN_SHARD_TOKENS",
            minimum=1,
        ),
    ] = None
    max_activation_gib: Annotated[
        float | None,
        Option(
            "GiB of activations beyond which layers are recomputed; default: half of what is free, on a CPU at most 8",
            "HEADWAY_MAX_ACTIVATION_GIB",
            minimum=0.001,
        ),
    ] = None
    max_feature_gib: Annotated[
        float,
        Option(
            "GiB of what a base's tower made of pictures, kept from one pass to the next",
            "HEADWAY_MAX_FEATURE_GIB",
            minimum=0.001,
        ),
    ] = 1.0
    max_resident_gib: Annotated[
        float | None,
        Option(
            "GiB of weights, gradients and moments on the device; others move to host or disk; default: no limit",
            "HEADWAY_MAX_RESIDENT_GIB",
            minimum=0.001,
        ),
    ] = None
    max_grad_norm: Annotated[
        float | None,
        Option(
            "Clip gradients to this norm where a call does not say; default: never",
            "HEADWAY_MAX_GRAD_NORM",
            minimum=_TINY,
        ),
    ] = None
    canary: Annotated[
        bool, Option("Save a few logprobs with each adapter, by which vLLM samplers check its load", "HEADWAY_CANARY")
    ] = True
    lease_ttl_s: Annotated[
        float | None,
        Option(
            "Seconds without a renewed lease after which another trainer takes over this one's models; ranks wait for "
            "one another for three quarters of it",
            "HEADWAY_LEASE_TTL_S",
            "--lease-ttl",
            minimum=1.0,
            shown_default=f"{LEASE_TTL_S:g}; {GROUP_LEASE_TTL_S:g} for several ranks",
        ),
    ] = None
    idle_lease_s: Annotated[
        float,
        Option(
            "Seconds without work after which a model's lease is released",
            "HEADWAY_IDLE_LEASE_S",
            "--idle-lease",
            minimum=0.1,
        ),
    ] = 600.0
    snapshot_every_steps: Annotated[
        int,
        Option(
            "Steps without promotion after which their files are written in the background",
            "HEADWAY_SNAPSHOT_EVERY_STEPS",
            minimum=1,
        ),
    ] = 32
    snapshot_every_s: Annotated[
        float,
        Option(
            "Seconds of computing such steps after which that is done, however few they are",
            "HEADWAY_SNAPSHOT_EVERY_S",
            minimum=0.0,
        ),
    ] = 60.0
    stop_grace_s: Annotated[
        float,
        Option(
            "Seconds after SIGTERM in which work that cannot be interrupted may end",
            "HEADWAY_STOP_GRACE_S",
            "--stop-grace",
            minimum=0.0,
        ),
    ] = 10.0
    idle_exit_s: Annotated[
        float | None,
        Option(
            "End after so many seconds without work; default: never",
            "HEADWAY_IDLE_EXIT_SECONDS",
            "--idle-exit-seconds",
            minimum=0.1,
        ),
    ] = None
    metrics_port: Annotated[
        int | None,
        Option(
            "Port that serves /metrics; 0: any free one; default: none",
            "HEADWAY_METRICS_PORT",
            minimum=0,
            maximum=65535,
        ),
    ] = None
    metrics_host: Annotated[
        str, Option("Address of that port; any but this machine's needs a token", "HEADWAY_METRICS_HOST")
    ] = "127.0.0.1"
    metrics_token: str | None = None
    metrics_token_file: Path | None = None
    """Read in its place (`wire.process.tokens`)."""
    promotion: PromotionPolicy = PromotionPolicy.ONE
    promotion_timeout_s: Annotated[
        float,
        Option(
            "Seconds that a step waits for samplers at most",
            "HEADWAY_PROMOTION_TIMEOUT_S",
            "--promotion-timeout",
            minimum=1.0,
        ),
    ] = PATIENCE_S
    watchdog_s: Annotated[
        float,
        Option(
            "Seconds for one micro-batch after which the trainer ends itself",
            "HEADWAY_WATCHDOG_S",
            "--watchdog",
            minimum=1.0,
        ),
    ] = 1800.0
    keep_logprobs: Annotated[
        bool, Option("Store the trainer's logprobs of recorded rollouts, for pages and API", "HEADWAY_KEEP_LOGPROBS")
    ] = True

    def lease_ttl(self, *, of_group: bool) -> float:
        """Seconds; of a process that computes alone, or of rank 0 of a group."""
        return self.lease_ttl_s or (GROUP_LEASE_TTL_S if of_group else LEASE_TTL_S)

    @property
    def collective_limit_s(self) -> float:
        """After which a rank that waits for the others gives the group up: before the group's leases have run out."""
        return _SHARE_OF_A_COLLECTIVE * self.lease_ttl(of_group=True)
