"""Invariants of trainers and samplers: what they say they hold exists."""

from __future__ import annotations

from store.invariants.base import Invariant
from wire.adapter_names import adapter_name_sql, base_adapter_name_sql

PLANES = (
    Invariant(
        "leases are held on the right base",
        "A lease is of a trainable model, and its trainer is one of that model's base.",
        """
        select l.model_id, l.trainer_id, l.token, m.base_id, t.base_id as trainer_base_id
        from model_leases l join models m on m.id = l.model_id join trainers t on t.id = l.trainer_id
        where m.base_id is distinct from t.base_id
        """,
    ),
    Invariant(
        "tokens only grow",
        "No operation was started under a larger token than its model's lease, and no two leases have the same.",
        """
        select l.model_id, l.token, max(o.lease_token) as highest_used,
            (select count(*) from model_leases k where k.token = l.token) as num_leases
        from model_leases l left join operations o on o.model_id = l.model_id
        group by l.model_id, l.token
        having max(o.lease_token) > l.token or (select count(*) from model_leases k where k.token = l.token) > 1
        """,
    ),
    Invariant(
        "samplers hold what exists",
        "An adapter that a sampler reports is its base's own, or that of a checkpoint on its base.",
        f"""
        select a.sampler_id, a.adapter, a.state, s.base_id
        from sampler_adapters a join samplers s on s.id = a.sampler_id
        where a.adapter <> {base_adapter_name_sql("s.base_id")}
            and not exists (
                select from checkpoints c join models m on m.id = c.files_model_id
                where {adapter_name_sql("c.files_id")} = a.adapter and m.base_id = s.base_id
            )
        """,  # noqa: S608
    ),
    Invariant(
        "planes serve bases",
        "Trainers and samplers work for base models.",
        """
        select p.id, m.slug from (select id, base_id from trainers union all select id, base_id from samplers) p
        join models m on m.id = p.base_id where m.base_id is not null
        """,
    ),
)
