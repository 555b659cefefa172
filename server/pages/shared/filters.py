"""What the filters of lists say. A form that is left empty sends empty texts, which say nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, get_args
from uuid import UUID

from fastapi import Depends, Query

from server.catalog.repository import as_uuid
from server.pages.shared.addresses import address
from server.values.sanitizing import is_storable
from store.rollouts import JobFilter, TraceFilter
from store.rollouts.jobs import JobStatus
from store.rollouts.traces import Status
from wire.errors import InvalidRequest

Text = Annotated[str, Query(max_length=512)]
Cursor = Annotated[str | None, Query(max_length=256)]

JOB_STATUSES: tuple[str, ...] = get_args(JobStatus)
TRACE_STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class Filter:
    """As it was sent. `said`: the names and texts that say something."""

    said: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.said.get(name, "")

    def address(self, path: str, **more: Any) -> str:
        """The list at this path with this filter."""
        return address(path, **{**self.said, **more})

    def text(self, name: str) -> str | None:
        """Raises InvalidRequest for what no row can hold."""
        value = self.said.get(name)
        if value is not None and not is_storable(value):
            raise InvalidRequest(f"{name} holds characters that nothing here can be named by")
        return value

    def number(self, name: str) -> float | None:
        """Raises InvalidRequest unless it is a finite number."""
        try:
            value = float(self.said[name]) if name in self.said else None
        except ValueError:
            value = math.nan
        if value is not None and not math.isfinite(value):
            raise InvalidRequest(f"{name} must be a number, such as 0.5")
        return value

    def uuid(self, name: str) -> UUID | None:
        """Raises InvalidRequest unless it is an id."""
        if name not in self.said:
            return None
        value = as_uuid(self.said[name])
        if value is None:
            raise InvalidRequest(f"{name} must be an id: 32 hex digits, or a UUID with dashes")
        return value

    def day(self, name: str) -> datetime | None:
        """Midnight of a date, UTC, or a time. Raises InvalidRequest for another text."""
        if name not in self.said:
            return None
        try:
            value = datetime.fromisoformat(self.said[name])
        except ValueError:
            raise InvalidRequest(f"{name} must be a date, such as 2026-01-31, or a time in ISO form") from None
        return value if value.tzinfo else value.replace(tzinfo=UTC)

    def one_of(self, name: str, choices: tuple[str, ...]) -> Any:
        """Raises InvalidRequest unless it is one of these."""
        value = self.said.get(name)
        if value is not None and value not in choices:
            raise InvalidRequest(f"{name} must be one of {', '.join(choices)}")
        return value


def job_filter(name: Text = "", taskset: Text = "", status: Text = "") -> Filter:
    """Of the list of jobs."""
    return filter_of(name=name.strip(), taskset=taskset.strip(), status=status)


def trace_filter(
    status: Text = "",
    task: Text = "",
    group: Text = "",
    min_reward: Text = "",
    max_reward: Text = "",
    model: Text = "",
    checkpoint: Text = "",
    job: Text = "",
    label: Text = "",
    commented: Text = "",
    text: Text = "",
    since: Text = "",
    until: Text = "",
) -> Filter:
    """Of a list of rollouts."""
    named = {"task": task, "group": group, "model": model, "checkpoint": checkpoint, "job": job, "label": label}
    bounds = {"min_reward": min_reward, "max_reward": max_reward, "since": since, "until": until}
    said = {"status": status, "text": text, "commented": commented, **named, **bounds}
    return filter_of(**{name: value.strip() for name, value in said.items()})


JobFilterDep = Annotated[Filter, Depends(job_filter)]
TraceFilterDep = Annotated[Filter, Depends(trace_filter)]


def wanted_jobs(said: Filter) -> JobFilter:
    """Raises InvalidRequest for what the filter cannot mean."""
    return JobFilter(said.text("name"), said.text("taskset"), said.one_of("status", JOB_STATUSES))


def _end_of(day: datetime) -> datetime | None:
    """When the next one begins. None for the last day that there is, which nothing comes after."""
    return day + timedelta(days=1) if day.date() < date.max else None


def wanted_traces(said: Filter, job_id: UUID | None = None) -> TraceFilter:
    """All but model and checkpoint. Raises InvalidRequest for what the filter cannot mean. A day that ends it is part
    of it."""
    until = said.day("until")
    commented = said.one_of("commented", ("yes", "no"))
    return TraceFilter(
        job_id=job_id or said.uuid("job"),
        group_id=said.text("group"),
        task_slug=said.text("task"),
        min_reward=said.number("min_reward"),
        max_reward=said.number("max_reward"),
        status=said.one_of("status", TRACE_STATUSES),
        since=said.day("since"),
        until=_end_of(until) if until and len(said["until"]) <= len("2026-01-31") else until,
        text=said.text("text"),
        label=said.text("label"),
        has_comments=commented == "yes" if commented else None,
    )


def filter_of(**values: str) -> Filter:
    """What a form sent, without the fields that were left empty."""
    return Filter({name: value for name, value in values.items() if value})
