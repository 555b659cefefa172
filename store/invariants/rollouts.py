"""Invariants of recorded rollouts: what is on record can be read back, and is counted."""

from __future__ import annotations

from store.invariants.base import Invariant

ROLLOUTS = (
    Invariant(
        "samples can be put together",
        "What a sample shares its prompt or conversation with is a sample of the same trace.",
        """
        select s.team_id, s.trace_id, encode(s.digest, 'hex') as digest
        from samples s
        left join samples p on p.team_id = s.team_id and p.trace_id = s.trace_id and p.digest = s.parent_digest
        left join samples c on c.team_id = s.team_id and c.trace_id = s.trace_id and c.digest = s.conversation_parent
        where (s.parent_digest is not null and (
                p.digest is null or s.prompt_shared > least(s.prompt_length, p.prompt_length + p.output_length)
            ))
            or (s.conversation_parent is not null and (c.digest is null or s.items_shared > c.num_items))
        """,
    ),
    Invariant(
        "steps have their samples",
        "The sample that a span names is on record.",
        """
        select s.team_id, s.trace_id, s.span_id from spans s
        where s.sample_digest is not null and not exists (
            select from samples p
            where p.team_id = s.team_id and p.trace_id = s.trace_id and p.digest = s.sample_digest
        )
        """,
    ),
    Invariant(
        "rollouts name the pictures of their samples",
        "Each picture in a sample's prompt is named by its trace, which keeps its blob.",
        # As `store.rollouts.media` packs them: a byte of version, then 48 of each, of which the last 32 are its digest.
        """
        select s.team_id, s.trace_id, encode(s.digest, 'hex') as digest, m.name as picture
        from samples s cross join lateral (
            select encode(substring(s.media from 18 + 48 * n for 32), 'hex') as name
            from generate_series(0, (length(s.media) - 1) / 48 - 1) as n
        ) m
        where s.media is not null and not exists (
            select from trace_pictures t where t.team_id = s.team_id and t.trace_id = s.trace_id and t.name = m.name
        )
        """,
    ),
    Invariant(
        "traces count what is recorded of them",
        "A trace has as many samples, tokens and turns as it says.",
        """
        select t.team_id, t.id as trace_id, t.num_samples, s.num_samples as found_samples, t.num_turns,
            p.num_turns as found_turns
        from traces t
        left join (
            select team_id, trace_id, count(*) as num_samples, sum(prompt_length) as prompt,
                sum(output_length) as output
            from samples group by team_id, trace_id
        ) s on s.team_id = t.team_id and s.trace_id = t.id
        left join (
            select team_id, trace_id, count(*) as num_turns from spans
            where sample_digest is not null and flag is null group by team_id, trace_id
        ) p on p.team_id = t.team_id and p.trace_id = t.id
        where t.num_samples <> coalesce(s.num_samples, 0) or t.num_turns <> coalesce(p.num_turns, 0)
            or t.num_prompt_tokens <> coalesce(s.prompt, 0) or t.num_output_tokens <> coalesce(s.output, 0)
        """,
    ),
)
