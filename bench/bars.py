"""What was asked of the engine, beside what was measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bar:
    """at_least: the measured value must reach the bound; else it must not exceed it."""

    name: str
    measured: float
    bound: float
    at_least: bool = True

    @property
    def passed(self) -> bool:
        """NaN passes nothing."""
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def line(self) -> str:
        """For the table."""
        verdict, sign = ("pass" if self.passed else "MISS"), ("≥" if self.at_least else "≤")
        return f"{verdict}  {self.name:58}{self.measured:>9.3f}  {sign} {self.bound}"

    def to_json(self) -> dict[str, object]:
        """For the JSON line."""
        return {"name": self.name, "measured": round(self.measured, 4), "bound": self.bound, "passed": self.passed}
