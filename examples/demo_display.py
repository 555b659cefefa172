"""What the demo shows: a bar within each step, a line after it, the tree of checkpoints."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.tree import Tree

from examples.figures import StepFigures

if TYPE_CHECKING:
    from hud.train.types import CheckpointResponse

_SAY_EVERY_S = 10.0

console = Console(soft_wrap=True, highlight=False)


class StepProgress:
    """How far a step is: a bar on a terminal, elsewhere a line every ten seconds, so that quick steps have none."""

    def __init__(self) -> None:
        self._title = ""
        self._progress: Progress | None = None
        self._said_at = time.monotonic()

    @contextmanager
    def shown(self, title: str) -> Generator[None]:
        """While this step, or this score, runs."""
        self._title, self._said_at = title, time.monotonic()
        if not console.is_terminal:
            yield
            return
        columns = (TextColumn(title), BarColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console, transient=True) as self._progress:
            self._progress.add_task("")
            yield
        self._progress = None

    def update(self, phase: str, done: int, of: int) -> None:
        """See `examples.grpo.Watch`."""
        says = f"{done} of {of} {phase}" if phase == "rollouts" else phase
        if self._progress is not None:
            total = of if phase == "rollouts" else None
            self._progress.update(self._progress.task_ids[0], description=says, completed=done, total=total)
        elif time.monotonic() - self._said_at >= _SAY_EVERY_S:
            self._said_at = time.monotonic()
            console.print(f"{self._title}: {says}")


def step_line(figures: StepFigures, num_steps: int, left_s: float) -> str:
    """One step in one line. left_s: of the whole run, as the last steps suggest."""
    kl = f"{figures.kl:.1e}" if figures.kl is not None else "-"
    failed = f"  [red]{figures.num_failed} failed[/]" if figures.num_failed else ""
    left = f"  {duration(left_s)} left" if left_s else ""
    return (
        f"step {figures.step:>2}/{num_steps}  reward [cyan]{figures.reward:.3f}[/]  kl {kl}  "
        f"{figures.tokens_per_s:>4.0f} tok/s  rollout {figures.rollout_s:.1f} s  training {figures.training_s:.1f} s"
        f"{left}{failed}"
    )


def duration(seconds: float) -> str:
    """For a person to read."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def show_tree(model: str, checkpoints: Sequence[CheckpointResponse]) -> None:
    """The checkpoint tree; a run of steps without a branch is one level, so that a straight run reads as a list."""
    children: dict[str | None, list[CheckpointResponse]] = {}
    known = {node.id for node in checkpoints}
    for node in checkpoints:
        parent = node.prev_model_checkpoint_id if node.prev_model_checkpoint_id in known else None
        children.setdefault(parent, []).append(node)
    root = Tree(f"[bold]{model}[/] (base weights)")
    pending = [(root, child) for child in children.get(None, [])]
    while pending:
        branch, node = pending.pop(0)
        leaf = branch.add(_node_line(node))
        below = children.get(node.id, [])
        pending.extend((branch if len(below) == 1 else leaf, child) for child in below)
    console.print(root)


def _node_line(node: CheckpointResponse) -> str:
    reward = f"reward {node.mean_reward:.3f}" if node.mean_reward is not None else "reward -"
    mark = "  [green]← head[/]" if node.is_active else ""
    return f"{node.name or node.id[:8]}  {reward}  {node.num_traces or 0} trajectories{mark}"
