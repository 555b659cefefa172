"""What a training run did: figures of each step, the verdict on them, a JSON file and a picture. No hud, no torch."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

START_BELOW, END_ABOVE = 0.4, 0.85  # where the settings say nothing else
WINDOW = 5  # steps; one step's reward is too noisy to judge by


@dataclass(frozen=True, slots=True)
class StepFigures:
    """One training step. `reward` is the mean measured reward, whatever was sent to the trainer."""

    step: int
    reward: float
    num_rollouts: int
    num_failed: int
    num_tokens: int  # prompts and answers
    rollout_s: float
    forward_backward_s: float
    optim_step_s: float
    kl: float | None  # sampler against trainer, nats a token; None when the server does not report it
    checkpoint_id: str
    metrics: dict[str, float]

    @property
    def training_s(self) -> float:
        return self.forward_backward_s + self.optim_step_s

    @property
    def tokens_per_s(self) -> float:
        return self.num_tokens / (self.rollout_s + self.training_s)


@dataclass(frozen=True, slots=True)
class HeldOutScore:
    """Greedy score on problems that are never trained on, after `step` steps."""

    step: int
    reward: float
    num_problems: int


@dataclass(slots=True)
class RunFigures:
    """A whole run, written as it is to `demo.json`."""

    settings: dict[str, Any]
    model: str = ""
    steps: list[StepFigures] = field(default_factory=list[StepFigures])
    held_out: list[HeldOutScore] = field(default_factory=list[HeldOutScore])
    rollback: dict[str, Any] = field(default_factory=dict[str, Any])
    seconds: float = 0.0
    finished: bool = False

    @property
    def is_control(self) -> bool:
        return bool(self.settings.get("control"))

    def smoothed(self) -> list[float]:
        """Mean reward over the last WINDOW steps, one number a step."""
        rewards = [figures.reward for figures in self.steps]
        return [fmean(rewards[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(rewards))]

    def verdict(self) -> tuple[bool, str]:
        """Whether the run did what it had to, and the sentence that says so."""
        if len(self.steps) < 2:
            return False, "too few steps to judge"
        return self._control_verdict() if self.is_control else self._climb_verdict()

    def _climb_verdict(self) -> tuple[bool, str]:
        start, end, enough = self.steps[0].reward, self.smoothed()[-1], self.settings.get("end_above") or END_ABOVE
        reached = next((f.step for f, mean in zip(self.steps, self.smoothed(), strict=True) if mean > enough), None)
        before, after = (self.held_out[0].reward, self.held_out[-1].reward) if self.held_out else (0.0, 0.0)
        climbed = start < START_BELOW and end > enough and after > before
        at = f", above {enough} from step {reached}" if reached else ""
        greedy = f"; held-out problems, greedy: {before:.2f} → {after:.2f}"
        return climbed, f"{'climbed' if climbed else 'did NOT climb'}: mean reward {start:.2f} → {end:.2f}{at}{greedy}"

    def _control_verdict(self) -> tuple[bool, str]:
        """Flat: the first and the last steps differ by less than four standard errors of their difference."""
        num = min(WINDOW, len(self.steps) // 2)
        first, last = self.steps[:num], self.steps[-num:]
        start, end = fmean(f.reward for f in first), fmean(f.reward for f in last)
        mean = fmean(f.reward for f in self.steps)
        variance = mean * (1 - mean)
        samples = (sum(f.num_rollouts for f in first), sum(f.num_rollouts for f in last))
        tolerance = max(0.02, 4 * math.sqrt(variance / samples[0] + variance / samples[1]))
        flat = abs(end - start) < tolerance and end < START_BELOW
        word = "stayed flat" if flat else "did NOT stay flat"
        return flat, f"control {word}: mean reward {start:.2f} → {end:.2f} (allowed: ±{tolerance:.2f})"

    def save(self, folder: Path) -> None:
        """Write demo.json, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        passed, sentence = self.verdict()
        figures = dataclasses.asdict(self)
        figures["verdict"] = {"passed": passed, "says": sentence}
        figures["reward_smoothed"] = self.smoothed()
        written = folder / "demo.json.new"
        written.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        written.replace(folder / "demo.json")

    def draw(self, folder: Path) -> None:
        """Write demo.png, when there is a step to show."""
        if self.steps:
            self._draw(folder / "demo.png", self.verdict()[1].replace("; ", "\n"))

    @classmethod
    def load(cls, folder: Path) -> RunFigures | None:
        """What `save` wrote there; None where it did not, or an older version did."""
        try:
            found = json.loads((folder / "demo.json").read_text(encoding="utf-8"))
            values = {field.name: found[field.name] for field in dataclasses.fields(cls)}
            values["steps"] = [StepFigures(**step) for step in found["steps"]]
            values["held_out"] = [HeldOutScore(**score) for score in found["held_out"]]
            return cls(**values)
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _draw(self, file: Path, title: str) -> None:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
        steps = [f.step for f in self.steps]
        axes.plot(
            steps, [f.reward for f in self.steps], ".", color="tab:blue", alpha=0.5, label="mean reward of a step"
        )
        axes.plot(steps, self.smoothed(), color="tab:blue", label=f"mean of {WINDOW} steps")
        held_out = [(s.step, s.reward) for s in self.held_out]
        if held_out:
            axes.plot(*zip(*held_out, strict=True), "o--", color="tab:orange", label="held-out problems, greedy")
        for level in (START_BELOW, END_ABOVE):
            axes.axhline(level, color="gray", linewidth=0.8, linestyle=":")
        axes.set(xlabel="training step", ylabel="reward", ylim=(0, 1.02), title=title)
        axes.legend(loc="center right")
        figure.savefig(file, dpi=120)
        pyplot.close(figure)
