"""Checkpoints whose files are gone, whose rows stay."""

from __future__ import annotations


def sentence_of_removal(name: str | None, advice: str) -> str:
    """Why a checkpoint without files cannot be had, and what to ask for in its place. name: None only of base weights,
    which are never removed."""
    return f"the files of {name} were removed by the retention policy or by its team; {advice}"
