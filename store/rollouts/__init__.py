"""Recorded rollouts: what the gateway and telemetry bring, written once and read back exactly.

To write: `record` (recording) takes `TraceRecord`s of `NewSample`s and `NewSpan`s. To read: `list_traces` (traces)
pages through facts by a filter, `read_rollouts` (reading) brings tokens, `read_spans` the steps of its telemetry,
and `resolve` (resolving) says what a trace is worth as a trajectory. To change: `changing`. From elsewhere:
`import_trace` (importing).

**A sample is known by its digest** over prompt ids, output ids and logprobs, so gateway and telemetry write the same
row. Its prompt is stored from where another sample of the same trace ends: a conversation costs its length, not its
square. **Nothing is lost**: what is not as it should be is kept with a flag, and spans come back as they were sent.
"""

from store.rollouts.changing import cancel_traces, close_silent_traces, delete_job, delete_trace, pin_job, pin_trace
from store.rollouts.conversations import Conversation
from store.rollouts.group_stats import GroupFacts, GroupPage, JobSummary, Verdict, list_groups, summarise_jobs
from store.rollouts.importing import ImportedTurn, NewTrace, Outcome, content_id, import_trace
from store.rollouts.jobs import JobFacts, JobFilter, count_jobs, find_job, list_jobs
from store.rollouts.known import KnownSamples
from store.rollouts.reading import RecordedSample, RecordedSpan, Rollout, read_recorded, read_rollouts, read_spans
from store.rollouts.recording import TraceRecord, record
from store.rollouts.resolving import Resolved, resolve, resolve_rollout
from store.rollouts.samples import NewSample, Served
from store.rollouts.spans import NewSpan, read_span
from store.rollouts.traces import (
    TraceFacts,
    TraceFilter,
    TracePage,
    count_tokens,
    count_traces,
    find_trace,
    list_traces,
)

__all__ = [
    "Conversation",
    "GroupFacts",
    "GroupPage",
    "ImportedTurn",
    "JobFacts",
    "JobFilter",
    "JobSummary",
    "KnownSamples",
    "NewSample",
    "NewSpan",
    "NewTrace",
    "Outcome",
    "RecordedSample",
    "RecordedSpan",
    "Resolved",
    "Rollout",
    "Served",
    "TraceFacts",
    "TraceFilter",
    "TracePage",
    "TraceRecord",
    "Verdict",
    "cancel_traces",
    "close_silent_traces",
    "content_id",
    "count_jobs",
    "count_tokens",
    "count_traces",
    "delete_job",
    "delete_trace",
    "find_job",
    "find_trace",
    "import_trace",
    "list_groups",
    "list_jobs",
    "list_traces",
    "pin_job",
    "pin_trace",
    "read_recorded",
    "read_rollouts",
    "read_span",
    "read_spans",
    "record",
    "resolve",
    "resolve_rollout",
    "summarise_jobs",
]
