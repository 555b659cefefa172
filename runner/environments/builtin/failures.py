"""Grading that failed for a reason which is not in the answer."""

from __future__ import annotations


class GradingFailed(Exception):
    """There is no score. Its text is one sentence."""
