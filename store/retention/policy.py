"""What is kept, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from wire.process.options import Option


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """Heads, pinned checkpoints, and those that a fork started from are always kept, whatever this says.

    keep_last_states: optimizer states of each model's newest checkpoints; at least one.
    keep_every_states: besides, those of every Nth step; 0: of none.
    keep_last_adapters: whole checkpoints of each model's newest nodes (and every Nth); None: all. Without its adapter
        a node stays in the tree, but can be neither served nor rolled back to.
    keep_payloads_s: large requests and answers of operations that nothing can replay any more; nodes without files,
        which are computed from such requests; sampling requests of clients that were silent for so long (of those that
        have finished, for grace_s).
    keep_planes_s: rows of trainers, samplers and runners that were silent for so long, and of what runners ended;
        logs of old builds.
    keep_traces_s: recorded rollouts, since something last happened in them; None: for good.
    keep_last_jobs: each team's newest jobs with their rollouts; None: all. Pinned rollouts and jobs are kept anyway.
    keep_unsaved_runs_s: models that a client of the Tinker API made and saved nothing of, since its session ended or
        its last call.
    keep_pictures_s: pictures that were sent, and that no rollout names; at least grace_s.
    grace_s: files that no row names. Longer than the longest pause between an upload and the row that names it.
    """

    keep_last_states: Annotated[
        int,
        Option("Optimizer states to keep: of each model's newest checkpoints", "HEADWAY_KEEP_LAST_STATES", minimum=1),
    ] = 20
    keep_every_states: Annotated[
        int,
        Option("Also keep state and adapter of every Nth step; 0: none", "HEADWAY_KEEP_EVERY_STATES", minimum=0),
    ] = 25
    keep_last_adapters: Annotated[
        int | None,
        Option("Adapters to keep of each model", "HEADWAY_KEEP_LAST_ADAPTERS", minimum=1, shown_default="all of them"),
    ] = None
    keep_payloads_s: Annotated[
        float,
        Option(
            "Hours to keep large requests and answers after they were carried out",
            "HEADWAY_KEEP_PAYLOADS_H",
            "--keep-payloads-h",
            minimum=0.0,
            per=3600.0,
        ),
    ] = 24 * 3600.0
    keep_planes_s: Annotated[
        float,
        Option(
            "Hours to keep rows of dead trainers, samplers and runners, and logs of old builds",
            "HEADWAY_KEEP_PLANES_H",
            "--keep-planes-h",
            minimum=0.0,
            per=3600.0,
        ),
    ] = 7 * 24 * 3600.0
    grace_s: Annotated[
        float,
        Option(
            "Seconds to keep files without a row, which uploads under way have",
            "HEADWAY_GC_GRACE_S",
            "--gc-grace-s",
            minimum=0.0,
        ),
    ] = 3600.0
    keep_traces_s: Annotated[
        float | None,
        Option(
            "Days to keep recorded rollouts that are not pinned",
            "HEADWAY_KEEP_TRACES_D",
            "--keep-traces-d",
            minimum=0.0,
            per=86_400.0,
            shown_default="for good",
        ),
    ] = None
    keep_unsaved_runs_s: Annotated[
        float,
        Option(
            "Days to keep training runs that saved nothing, after their session ended or fell silent",
            "HEADWAY_KEEP_UNSAVED_RUNS_D",
            "--keep-unsaved-runs-d",
            minimum=0.0,
            per=86_400.0,
        ),
    ] = 7 * 24 * 3600.0
    keep_pictures_s: Annotated[
        float,
        Option(
            "Hours to keep pictures that no rollout names, after they were used last",
            "HEADWAY_KEEP_PICTURES_H",
            "--keep-pictures-h",
            minimum=0.0,
            per=3600.0,
        ),
    ] = 24 * 3600.0
    keep_last_jobs: Annotated[
        int | None,
        Option(
            "Jobs to keep of each team, with their rollouts",
            "HEADWAY_KEEP_LAST_JOBS",
            minimum=1,
            shown_default="all",
        ),
    ] = None

    def __post_init__(self) -> None:
        if self.keep_last_states < 1 or (self.keep_last_adapters is not None and self.keep_last_adapters < 1):
            raise ValueError("at least the newest checkpoint of a model is kept whole")
        if self.keep_last_jobs is not None and self.keep_last_jobs < 1:
            raise ValueError("at least the newest job of a team is kept")
        seconds = (
            self.keep_payloads_s,
            self.keep_planes_s,
            self.grace_s,
            self.keep_traces_s or 0,
            self.keep_unsaved_runs_s,
            self.keep_pictures_s,
        )
        if min(self.keep_every_states, *seconds) < 0:
            raise ValueError("a retention policy has no negative figures")


DEFAULT_POLICY = RetentionPolicy()
