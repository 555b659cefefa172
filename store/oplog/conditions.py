"""What the states of an operation mean, as SQL over a row `o` of the table `operations`."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from store.planes.presence import PRESENT

_GRADIENT = "o.kind in ('forward_backward', 'backward')"

PENDING_GRADIENT = f"{_GRADIENT} and o.state = 'done' and o.consumed_by_id is null"
"""A part of the accumulated gradient."""

UNANSWERED = """
    o.state in ('queued', 'running', 'done') and o.consumed_by_id is null and o.answered_at is null
    and o.idempotency_key is null
"""
"""Nobody has its answer yet, and nobody has a key to ask for it: an identical call may be about it."""

UNACKNOWLEDGED = f"""
    o.answered_at is null and o.idempotency_key is null
    and (o.caller is null or not (o.caller >> 32) = any ({PRESENT}))
"""
"""Nobody has its answer, nobody waits for it, and nobody has a key to ask for it again."""

WILL_BE_LEFT_OUT = """
    (
        o.kind = 'forward'
        or exists (
            select from operations s
            where s.model_id = o.model_id and s.sequence > o.sequence and s.kind = 'optim_step' and s.state = 'queued'
        )
    )
"""
"""Nothing comes of it unless it is acknowledged: a forward has no other name than its answer, and the step that waits
behind a gradient leaves it out."""

PAYLOAD_NEEDED = f"""
    (
        o.state in ('queued', 'running')
        or ({PENDING_GRADIENT})
        or (
            o.kind = 'forward' and o.state = 'done' and o.consumed_by_id is null
            and o.head_version = (select m.head_version from models m where m.id = o.model_id)
        )
        or o.id in (
            select b.forward_id from operations b
            where b.forward_id is not null
                and (b.state in ('queued', 'running') or (b.state = 'done' and b.consumed_by_id is null))
        )
    )
"""
"""A trainer may still read the payload: to carry the operation out, to replay it, or for a backward that uses or may
yet use its handle. Once false it stays false: what was consumed or superseded stays so, and the version of a head only
grows."""
