"""Rollouts as the SDK and the gateway tell of them, and a hundred thousand of them in a database.

Some hundred rollouts go through the store's own encoder; their rows are then copied under other ids, so that sizes and
plans are those of so many rollouts. Ids of jobs, tasks, models and checkpoints are digests of their numbers.
"""

from __future__ import annotations

import hashlib
import json
import random
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import numpy as np

from store.blob_stores import BlobStore
from store.database import AsyncDatabase
from store.rollouts import Conversation, NewSample, Served, TraceRecord, read_span, record
from wire.trajectories import Turn

TURNS = 8
PROMPT, OUTPUT, TOOL = 200, 60, 40
"""Tokens of the first prompt, of each answer, and of what a tool says between two answers."""
VOCABULARY = 150_000
JOB, GROUP, CHECKPOINT, MODEL, TASKS = 256, 8, 512, 5000, 500
"""Rollouts of a job, of a group, of a checkpoint, of a model; and how many tasks there are."""
WORDS = [
    "the",
    "sum",
    "of",
    "these",
    "numbers",
    "is",
    "wrong",
    "because",
    "one",
    "was",
    "counted",
    "twice",
    "so",
    "we",
    "try",
    "again",
    "with",
    "another",
    "tool",
]


@dataclass(frozen=True, slots=True)
class MadeRollout:
    """One rollout: its turns, and the spans of its telemetry."""

    trace_id: UUID
    turns: list[Turn]
    texts: list[str]
    spans: list[dict[str, Any]]

    def upload(self) -> bytes:
        """The body of a telemetry upload."""
        return json.dumps({"telemetry": self.spans}, separators=(",", ":")).encode()


def make_rollout(rng: random.Random, *, scale: int = 1) -> MadeRollout:
    """A conversation with tools; scale: so many times the tokens."""
    trace_id = UUID(int=rng.getrandbits(128), version=4)
    history, turns, texts, spans = _ids(rng, PROMPT * scale), list[Turn](), list[str](), list[dict[str, Any]]()
    for step in range(1, TURNS + 1):
        output = _ids(rng, OUTPUT * scale)
        logprobs = -np.abs(np.array([rng.gauss(0, 1) for _ in output], np.float32))
        turns.append(Turn(np.array(history, np.int32), np.array(output, np.int32), logprobs))
        texts.append(" ".join(rng.choices(WORDS, k=OUTPUT * scale * 3 // 4)))
        spans.append(_span(trace_id, step, turns[-1], texts[-1], rng))
        history = [*history, *output, *_ids(rng, TOOL * scale)]
    return MadeRollout(trace_id, turns, texts, spans)


def served_samples(team_id: UUID, rollout: MadeRollout, trace_id: UUID) -> list[NewSample]:
    """The same as the gateway records it."""
    samples, messages = list[NewSample](), [{"role": "user", "content": " ".join(WORDS * 10)}]
    for turn, text in zip(rollout.turns, rollout.texts, strict=True):
        asked = Conversation({}, list(messages), {"role": "assistant", "content": text})
        facts = {"temperature": 1.0, "max_tokens": OUTPUT}
        served = Served(
            datetime.now(UTC), f"c-{uuid.uuid4().hex}", numbered("model", 0), None, facts, "stop", 1.0, asked
        )
        samples.append(NewSample(team_id, trace_id, turn, served))
        messages += [{"role": "assistant", "content": text}, {"role": "tool", "content": text[:100]}]
    return samples


def numbered(kind: str, number: int) -> UUID:
    """The id of the n-th job, model or checkpoint of `fill`."""
    return UUID(hashlib.md5(f"{kind}{number}".encode(), usedforsecurity=False).hexdigest())


async def fill(database: AsyncDatabase, blobs: BlobStore, team_id: UUID, num_traces: int, templates: int) -> None:
    """So many rollouts of a team, the templates' number times a whole number of copies, newest last."""
    rng = random.Random(0)
    made = [make_rollout(rng) for _ in range(templates)]
    for rollout in made:
        spans = [read_span(span, rollout.trace_id) for span in rollout.spans]
        samples = served_samples(team_id, rollout, rollout.trace_id)
        await record(database, blobs, [TraceRecord(team_id, rollout.trace_id, samples, spans, "bench")])
    async with database.connection() as connection:
        values = {"team_id": team_id, "copies": num_traces // templates, "templates": templates}
        for statement in (_NUMBERED, _TRACES, _copied("samples"), _copied("spans"), _ORIGINALS, _JOBS):
            await connection.execute(statement.encode(), values)
        for table in ("traces", "samples", "spans", "jobs"):
            await connection.execute(f"vacuum analyze {table}".encode())


_NUMBERED = """
    create table bench_copies as
    select
        t.id as original, md5(t.id::text || c)::uuid as id,
        (c * %(templates)s::int + row_number() over (partition by c))::int as n
    from traces t, generate_series(0, %(copies)s::int - 1) c where t.team_id = %(team_id)s
"""

_TRACES = f"""
    insert into traces (
        team_id, id, job_id, group_id, task_slug, model, model_id, status, reward, created_at, entered_at, exited_at,
        last_activity_at, timed_out_at, num_turns, num_samples, num_prompt_tokens, num_output_tokens, checkpoint_ids
    )
    select
        t.team_id, b.id, md5('job' || b.n / {JOB})::uuid, 'group-' || b.n / {GROUP}, 'task-' || b.n %% {TASKS}, 'bench',
        md5('model' || b.n / {MODEL})::uuid,
        case when b.n %% 50 = 7 then 'error' when b.n %% 997 = 5 then 'cancelled' when b.n %% 500 = 3 then null
            else 'completed' end,
        case when b.n %% 500 <> 3 then (b.n %% 101) / 100.0 end,
        now() - (%(copies)s::int * %(templates)s::int - b.n) * interval '20 seconds', now(), now(), now(),
        case when b.n %% 1000 = 3 then now() end,
        t.num_turns, case when b.n %% 300 = 1 then 0 else t.num_samples end, t.num_prompt_tokens, t.num_output_tokens,
        array[md5('checkpoint' || b.n / {CHECKPOINT})::uuid]
    from bench_copies b join traces t on t.id = b.original and t.team_id = %(team_id)s
"""

_ORIGINALS = "delete from traces t using bench_copies b where t.id = b.original and t.team_id = %(team_id)s"

_JOBS = """
    insert into jobs (team_id, id, name, group_size, created_at)
    select team_id, job_id, 'bench', 8, min(created_at) from traces where team_id = %(team_id)s group by team_id, job_id
"""


def _copied(table: str) -> str:
    columns = {
        "samples": """digest, prompt_length, output_length, parent_digest, prompt_shared, prompt_digest, end_digest,
            tokens, tokens_blob, served_at, completion_id, model_id, checkpoint_id, sampling, finish_reason, seconds,
            conversation, conversation_blob, conversation_parent, items_shared, num_items, items_digest""",
        "spans": """span_id, digest, schema_tag, name, step_id, source, started_at, ended_at, sample_digest, flag,
            num_bytes, payload, payload_blob""",
    }[table]
    prefixed = ", ".join(f"s.{name.strip()}" for name in columns.split(","))
    return f"""
        insert into {table} (team_id, trace_id, {columns})
        select s.team_id, b.id, {prefixed} from bench_copies b
        join {table} s on s.trace_id = b.original and s.team_id = %(team_id)s
    """


def _ids(rng: random.Random, count: int) -> list[int]:
    """Low ids are common, as in text."""
    return [min(int(rng.paretovariate(0.35)), VOCABULARY - 1) for _ in range(count)]


def _span(trace_id: UUID, step: int, turn: Turn, text: str, rng: random.Random) -> dict[str, Any]:
    ids, output, logprobs = turn.prompt_ids.tolist(), turn.output_ids.tolist(), turn.sampling_logprobs.tolist()
    tokens = [
        {"token": f"t{one}", "logprob": value, "bytes": None} for one, value in zip(output, logprobs, strict=True)
    ]
    choice = {"message": {"role": "assistant", "content": text}, "token_ids": output, "logprobs": {"content": tokens}}
    raw = {"id": f"c-{rng.getrandbits(64):x}", "prompt_token_ids": ids, "choices": [choice]}
    sample = {"prompt_token_ids": ids, "output_token_ids": output, "output_logprobs": logprobs}
    payload = {"step_id": step, "source": "agent", "content": text, "done": False, "raw": raw, "sample": sample}
    now = datetime.now(UTC).isoformat()
    return {
        "name": "agent",
        "trace_id": trace_id.hex,
        "span_id": f"{rng.getrandbits(64):016x}",
        "start_time": now,
        "end_time": now,
        "status_code": "OK",
        "attributes": {"hud.task_run_id": trace_id.hex, "hud.schema": "hud.step.v1", "hud.payload": payload},
    }
