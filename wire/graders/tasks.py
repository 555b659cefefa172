"""A graded task: the name of the environment that comes with runners, and the arguments of its one task."""

from __future__ import annotations

GRADED_ENVIRONMENT = "headway-graded"
GRADED_TASK = "grade"
"""Its arguments: `messages`, what is asked; `item`, the line of the file; `grader`."""
