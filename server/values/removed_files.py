"""Checkpoints whose files are gone, whose rows stay."""

from __future__ import annotations


def sentence_of_removal(name: str, advice: str) -> str:
    """Why a checkpoint without files cannot be had, and what to ask for in its place."""
    return f"the files of {name} were removed by the retention policy or by its team; {advice}"
