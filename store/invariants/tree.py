"""Invariants of heads, checkpoints and trees."""

from __future__ import annotations

from store.invariants.base import Invariant
from store.operation_kinds import GRADIENTS, HEAD_MOVERS, SAVERS, is_any

# ruff: noqa: S608 - put together from constants

TREE = (
    Invariant(
        "heads are committed",
        "A model's head is a committed checkpoint of that model, and retention has not removed its files.",
        """
        select m.id as model_id, m.slug, m.head_checkpoint_id, c.model_id as of_model_id, c.status, c.files_removed_at
        from models m left join checkpoints c on c.id = m.head_checkpoint_id
        where m.head_checkpoint_id is not null
            and (c.model_id is distinct from m.id or c.status <> 'committed' or c.files_removed_at is not null)
        """,
    ),
    Invariant(
        "bases have no tree",
        "Base models have no head, no checkpoints and no operations.",
        """
        select m.id as model_id, m.slug from models m
        where m.base_id is null and (
            m.head_checkpoint_id is not null
            or exists (select from checkpoints c where c.model_id = m.id)
            or exists (select from operations o where o.model_id = m.id)
        )
        """,
    ),
    Invariant(
        "parents are of the same tree",
        "A checkpoint's parent is a committed checkpoint of the same model, and its step is the parent's plus one.",
        """
        select c.id as checkpoint_id, c.model_id, c.step, p.id as parent_id, p.model_id as of_model_id,
            p.step as parent_step, p.status as parent_status
        from checkpoints c join checkpoints p on p.id = c.parent_id
        where c.status <> 'rejected'
            and (p.model_id <> c.model_id or p.status <> 'committed' or c.step <> p.step + 1)
        """,
    ),
    Invariant(
        "roots begin somewhere",
        "A checkpoint without parent is the first step from the base weights, or step 0: the start, a fork's root, or "
        "an adapter that was uploaded.",
        f"""
        select c.id as checkpoint_id, c.model_id, c.step, c.files_id
        from checkpoints c join models m on m.id = c.model_id
        where c.parent_id is null and c.status <> 'rejected' and m.removed_at is null and not (
            (c.files_id = c.id and c.step = 1)
            or (c.files_id = c.id and c.step = 0 and c.operation_id in (
                select o.id from operations o where o.model_id = m.id and {is_any("o.kind", SAVERS)}
            ))
            or (c.files_id = c.id and c.step = 0 and c.operation_id is null and c.state_removed_at is not null)
            or (c.files_id <> c.id and c.step = 0 and c.status = 'committed' and m.forked_from_id is not null)
        )
        """,
    ),
    Invariant(
        "paths stand for what has files",
        "A client's name that has not expired is that of a committed checkpoint of its model, which has files.",
        """
        select n.id as name_id, n.model_id, n.kind, n.name, c.id as checkpoint_id, c.status, c.is_saved
        from checkpoint_names n join checkpoints c on c.id = n.checkpoint_id
        where (n.expires_at is null or n.expires_at > clock_timestamp()) and (
            c.model_id <> n.model_id or c.status <> 'committed' or not c.is_saved or c.files_removed_at is not null
        )
        """,
    ),
    Invariant(
        "names stand for what has files",
        "What a model's name stands for, its head or another node, is a committed checkpoint of that model with files.",
        """
        select m.id as model_id, m.slug, m.serves_head, c.id as checkpoint_id, c.status, c.is_saved
        from models m
        join checkpoints c on c.id = case when m.serves_head then m.head_checkpoint_id else m.served_checkpoint_id end
        where c.model_id <> m.id or c.status <> 'committed' or not c.is_saved or c.files_removed_at is not null
        """,
    ),
    Invariant(
        "nodes have files or can be computed again",
        "A committed checkpoint without files was made by a step of the log, which is done by a plan, as are the "
        "gradients that it consumed; their payloads are kept, and so is what lies above it.",
        f"""
        select c.id as checkpoint_id, c.model_id, c.name, s.id as step_id, s.state
        from checkpoints c
        left join operations s on s.id = c.operation_id
        left join checkpoints p on p.id = c.parent_id
        where c.status = 'committed' and not c.is_saved and c.files_removed_at is null and (
            c.files_id <> c.id
            or s.id is null or s.model_id <> c.model_id or s.state <> 'done' or s.plan is null
            or s.blobs_dropped_at is not null
            or p.files_removed_at is not null
            or exists (
                select from operations g left join operations f on f.id = g.forward_id
                where g.model_id = c.model_id and g.consumed_by_id = s.id and {is_any("g.kind", GRADIENTS)}
                    and (g.plan is null or g.blobs_dropped_at is not null or f.blobs_dropped_at is not null)
            )
        )
        """,
    ),
    Invariant(
        "files belong to a checkpoint",
        "The files that a checkpoint names are those of a committed checkpoint on the same base, which has some; what "
        "retention removed of them is gone for all that name them; a root may begin with fresh moments all the same.",
        """
        select c.id as checkpoint_id, c.files_id, c.files_model_id, o.status
        from checkpoints c
        join models m on m.id = c.model_id
        left join checkpoints o on o.id = c.files_id
        left join models om on om.id = o.model_id
        where c.files_id <> c.id and not coalesce(
            o.status = 'committed' and o.files_id = o.id and o.model_id = c.files_model_id and o.is_saved
            and om.base_id = m.base_id
            and (o.state_removed_at is null or c.state_removed_at is not null)
            and (o.files_removed_at is null) = (c.files_removed_at is null),
            false
        )
        """,
    ),
    Invariant(
        "staged checkpoints are of a step under way",
        "A model has at most one staged checkpoint, made by a step that runs (or was superseded) under the lease that "
        "is there now.",
        f"""
        select c.id as checkpoint_id, c.model_id, c.created_at, l.token, l.expires_at
        from checkpoints c left join model_leases l on l.model_id = c.model_id
        where c.status = 'staged' and (
            not exists (
                select from operations o
                where o.model_id = c.model_id and {is_any("o.kind", HEAD_MOVERS)}
                    and o.state in ('running', 'superseded')
                    and o.lease_token = l.token and o.started_at <= c.created_at
            )
            or exists (
                select from checkpoints d where d.model_id = c.model_id and d.status = 'staged' and d.id <> c.id
            )
        )
        """,
    ),
    Invariant(
        "heads count their moves",
        "A head has moved at least as often as steps were committed.",
        """
        select m.id as model_id, m.slug, m.head_version, count(c.id) as num_steps
        from models m join checkpoints c on c.model_id = m.id and c.status = 'committed' and c.files_id = c.id
        group by m.id having m.head_version < count(c.id)
        """,
    ),
)
