"""What the states of an operation mean, as SQL over a row `o` of the table `operations`."""

# ruff: noqa: S608 - put together from constants

from __future__ import annotations

from store.operation_kinds import ANSWERS_ONLY, CONSUMERS, GRADIENTS, HANDLE_GIVERS, is_any
from store.planes.presence import PRESENT

PENDING_GRADIENT = f"{is_any('o.kind', GRADIENTS)} and o.state = 'done' and o.consumed_by_id is null"
"""A part of the accumulated gradient."""

UNANSWERED = """
    o.state in ('queued', 'running', 'done') and o.consumed_by_id is null and o.answered_at is null
    and o.idempotency_key is null and o.client_sequence is null
"""
"""Nobody has its answer yet, and nobody has a key or a number to ask for it: an identical call may be about it."""

UNACKNOWLEDGED = f"""
    o.answered_at is null and o.idempotency_key is null and o.client_sequence is null
    and (o.caller is null or not (o.caller >> 32) = any ({PRESENT}))
"""
"""Nobody has its answer, nobody waits for it, and nobody has a key or a number of its own to ask for it again."""

WILL_BE_LEFT_OUT = f"""
    (
        {is_any("o.kind", ANSWERS_ONLY)}
        or exists (
            select from operations s
            where s.model_id = o.model_id and s.sequence > o.sequence
                and {is_any("s.kind", CONSUMERS)} and s.state = 'queued'
        )
    )
"""
"""Nothing comes of it unless it is acknowledged: it leaves nothing but its answer, or it is a gradient that the step
which waits behind it leaves out."""

# Steps whose nodes have no files and are kept.
_UNSAVED_STEPS = """
    select c.operation_id from checkpoints c
    where c.status = 'committed' and not c.is_saved and c.files_removed_at is null
"""

PAYLOAD_NEEDED = f"""
    (
        o.state in ('held', 'queued', 'running')
        or ({PENDING_GRADIENT})
        or (
            {is_any("o.kind", HANDLE_GIVERS)} and o.state = 'done' and o.consumed_by_id is null
            and o.head_version = (select m.head_version from models m where m.id = o.model_id)
        )
        or o.id in (
            select b.forward_id from operations b
            where b.forward_id is not null
                and (
                    b.state in ('held', 'queued', 'running')
                    or (b.state = 'done' and (b.consumed_by_id is null or b.consumed_by_id in ({_UNSAVED_STEPS})))
                )
        )
        or o.id in ({_UNSAVED_STEPS})
        or o.consumed_by_id in ({_UNSAVED_STEPS})
    )
"""
"""A trainer may still read the payload: to carry the operation out, to replay it, for a backward that uses or may yet
use its handle, or to compute a node without files again. Once false it stays false: what was consumed or superseded
stays so, the version of a head only grows, and a node that has files, or is kept no longer, stays so."""
