"""What the database knows, as Prometheus metrics. Every server answers alike: take these from one of them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from store.census import Census, Described, Held
from store.planes.scaling_policy import ScalingPolicy
from store.run_states import LIVE

_OF_A_HEAD = {
    "headway_model_reward_mean": ("reward_mean", "Mean reward of the batch that made the head"),
    "headway_model_loss": ("loss:sum", "Its loss"),
    "headway_model_kl": ("kl_sampling_trainer:mean", "KL between sampler and trainer, in nats"),
    "headway_model_entropy": ("entropy:mean", "Entropy of the policy, in nats"),
    "headway_model_grad_norm": ("grad_norm", "2-norm of the gradient before clipping"),
}


def census_exposition(census: Census | None, folder: Path | None, policy: ScalingPolicy) -> bytes:
    """As text. None: the database is away; large requests go to no disk of ours. `policy`: how many samplers are
    wanted."""
    registry = CollectorRegistry()
    registry.register(_Given([*_families(census, policy), *_disk(folder)]))
    return generate_latest(registry)


class _Given(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def _families(census: Census | None, policy: ScalingPolicy) -> Iterator[Metric]:
    yield GaugeMetricFamily("headway_database_up", "Whether the database answered this scrape", float(bool(census)))
    if census is None:
        return
    yield _described(
        "headway_server_info", "1; a live server process", ("version", "database", "checkpoint_store"), census.servers
    )
    yield _described(
        "headway_runner_info", "1; a live runner", ("headway", "hud", "python", "isolation"), census.runners
    )
    yield from _operations(census)
    yield _held("headway_trainers", "Live trainers", "state", census.trainers)
    yield _held("headway_samplers", "Live samplers", "backend", census.samplers)
    yield _wanted(census, policy)
    yield _held("headway_adapters", "Adapters of live samplers", "state", census.adapters)
    yield _held("headway_leases", "Models that a trainer holds", "state", census.leases)
    yield from _placements(census)
    models = GaugeMetricFamily("headway_models", "Models in the catalog", labels=["kind"])
    models.add_metric(["base"], census.num_bases)
    models.add_metric(["fork"], census.num_forks)
    yield models
    yield from _heads(census)
    yield from _runs(census)
    teams = GaugeMetricFamily("headway_team_info", "The name of each team id", labels=["team", "name"])
    for team_id, name in census.teams:
        teams.add_metric([str(team_id), name], 1)
    yield teams


def _described(name: str, meaning: str, facts: tuple[str, ...], processes: list[Described]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=["host", "pid", *facts])
    for one in processes:
        family.add_metric([one.host, str(one.pid), *(str(one.details.get(fact, "")) for fact in facts)], 1)
    return family


def _wanted(census: Census, policy: ScalingPolicy) -> Metric:
    family = GaugeMetricFamily("headway_samplers_wanted", "Samplers that there should be", labels=["base"])
    for demand in census.demands:
        family.add_metric([demand.base], demand.wanted(policy))
    return family


def _operations(census: Census) -> Iterator[Metric]:
    counts = GaugeMetricFamily("headway_operations", "Operations in the op log", labels=["kind", "state"])
    ages = GaugeMetricFamily(
        "headway_operation_oldest_seconds", "Since the oldest of them was accepted", labels=["kind", "state"]
    )
    for open_ones in census.operations:
        counts.add_metric([open_ones.kind, open_ones.state], open_ones.count)
        ages.add_metric([open_ones.kind, open_ones.state], open_ones.oldest_s)
    yield from (counts, ages)


def _placements(census: Census) -> Iterator[Metric]:
    counts = GaugeMetricFamily("headway_placements", "What runners are to carry out", labels=["kind", "state"])
    ages = GaugeMetricFamily(
        "headway_placement_oldest_seconds", "Since the oldest of them could be taken, or was", labels=["kind", "state"]
    )
    for placed in census.placements:
        counts.add_metric([placed.kind, placed.state], placed.count)
        ages.add_metric([placed.kind, placed.state], placed.oldest_s)
    slots = GaugeMetricFamily("headway_runner_slots", "Of live runners with this label", labels=["label", "state"])
    for some in census.slots:
        slots.add_metric([some.label, some.state], some.count)
    yield from (counts, ages, slots)


def _heads(census: Census) -> Iterator[Metric]:
    labels = ["model", "slug", "team"]
    steps = GaugeMetricFamily("headway_model_step", "Step of the head in the model's tree", labels=labels)
    for head in census.heads:
        steps.add_metric([str(head.model_id), head.slug, head.team], head.step)
    yield steps
    for name, (metric, meaning) in _OF_A_HEAD.items():
        family = GaugeMetricFamily(name, meaning, labels=labels)
        for head in census.heads:
            if metric in head.metrics:
                family.add_metric([str(head.model_id), head.slug, head.team], head.metrics[metric])
        yield family


def _runs(census: Census) -> Iterator[Metric]:
    counts = Counter(run.state for run in census.runs)
    states = GaugeMetricFamily("headway_runs", "Managed runs that have not ended", labels=["state"])
    for state in LIVE:
        states.add_metric([state], counts[state])
    yield states
    labels = ["run", "model", "team"]
    families = {
        "step": GaugeMetricFamily("headway_run_step", "Steps of the run that are done", labels=labels),
        "is_waiting": GaugeMetricFamily(
            "headway_run_waiting", "Whether something keeps it from going on", labels=labels
        ),
        "reward": GaugeMetricFamily("headway_run_reward", "Mean reward of its newest step", labels=labels),
        "held_out_score": GaugeMetricFamily("headway_run_held_out_score", "Its newest held-out score", labels=labels),
    }
    for name, family in families.items():
        for run in census.runs:
            if (value := getattr(run, name)) is not None:
                family.add_metric([str(run.run_id), run.model, run.team], float(value))
        yield family


def _held(name: str, meaning: str, label: str, held: list[Held]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=["base", label])
    for entry in held:
        family.add_metric([entry.base, entry.kind], entry.count)
    return family


def _disk(folder: Path | None) -> Iterator[Metric]:
    """Of the file system that large requests go to. Nothing if there is none yet."""
    existing = folder and next((path for path in (folder, *folder.parents) if path.exists()), None)
    if existing is None:
        return
    usage = shutil.disk_usage(existing)
    family = GaugeMetricFamily("headway_disk_bytes", "The file system of the data folder", labels=["state"])
    family.add_metric(["free"], usage.free)
    family.add_metric(["used"], usage.used)
    yield family
