"""What a name of a model means to a team, as a part of the statements that look it up."""

from __future__ import annotations

# Subqueries of coalesce are evaluated in turn, and only as far as needed: a slug in full is found by its index.
WANTED = """
    wanted as (
        select coalesce(
            (
                select m.id from models m, k
                where m.id = %(model_id)s::uuid and m.removed_at is null
                    and (m.team_id is null or m.team_id = k.team_id)
            ),
            (
                select m.id from models m, k
                where m.team_id = k.team_id and lower(m.slug) = %(reference)s::text and m.removed_at is null
            ),
            (select m.id from models m where m.team_id is null and lower(m.slug) = %(reference)s::text),
            (
                select m.id from models m, k
                where m.removed_at is null and (m.team_id is null or m.team_id = k.team_id) and (
                    lower(m.name) = %(reference)s::text
                    or lower(regexp_replace(m.slug, '^.*/', '')) = %(reference)s::text
                )
                order by lower(m.name) = %(reference)s::text desc, m.team_id is null, m.created_at limit 1
            )
        ) as id
    )
"""
"""SQL: the model that `model_id` or else `reference`, in small letters, means to the team of the key `k`."""
