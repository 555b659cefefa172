"""The immutable names under which samplers hold weights: `hw-<hex>` for a checkpoint's files, `hw-base-<hex>` for the
zero adapter of a base. In Python and in SQL, here and nowhere else."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID


def adapter_name(files_id: UUID) -> str:
    """The name of the weights in a checkpoint's files."""
    return f"hw-{files_id.hex}"


def base_adapter_name(base_id: UUID) -> str:
    """The name of a base's zero adapter."""
    return f"hw-base-{base_id.hex}"


def adapter_name_sql(files_id: LiteralString) -> LiteralString:
    """SQL: as `adapter_name`, of an expression."""
    return f"'hw-' || replace({files_id}::text, '-', '')"


def base_adapter_name_sql(base_id: LiteralString) -> LiteralString:
    """SQL: as `base_adapter_name`, of an expression."""
    return f"'hw-base-' || replace({base_id}::text, '-', '')"
