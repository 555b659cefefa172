"""How charts are asked for, as an address says it: which figures, over what, how smooth, on which scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import Depends, Query

from server.pages.charts.figures import STANDARD, Figure, figure_of
from server.values.sanitizing import is_storable
from wire.errors import InvalidRequest

MOST_METRICS = 40
_MOST_CHARACTERS = 200

Across = Literal["step", "time", "tokens", "order"]
ACROSS: dict[str, str] = {
    "step": "step",
    "time": "time since the first step",
    "tokens": "tokens trained on",
    "order": "order of commits",
}
SMOOTHINGS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class ChartSettings:
    """`metrics`: as they were asked for; none: the standard figures. `smoothing`: the weight of what came before in an
    exponential moving average."""

    metrics: tuple[str, ...]
    across: Across
    smoothing: float
    is_log: bool

    @property
    def figures(self) -> list[Figure]:
        """What is drawn."""
        return [figure_of(metric) for metric in dict.fromkeys(self.metrics)] or list(STANDARD)

    def address(self, path: str, **more: Any) -> str:
        """The path with these settings; lists in `more` repeat their name; they replace settings of it."""
        said: dict[str, Any] = {"metric": self.metrics, **more}
        said |= {"x": self.across if self.across != "step" else (), "smooth": self.smoothing or ()}
        said |= {"log": "on" if self.is_log else ()}
        query = urlencode({name: value for name, value in said.items() if value not in ((), [], None)}, doseq=True)
        return f"{path}?{query}" if query else path


def chart_settings(
    metric: Annotated[list[str] | None, Query()] = None,
    x: Across = "step",
    smooth: Annotated[float, Query(ge=0, lt=1, allow_inf_nan=False)] = 0.0,
    log: Literal["on", ""] = "",
) -> ChartSettings:
    """Raises InvalidRequest for more metrics than fit on a page, and for names that none can have."""
    metrics = metric or []
    if len(metrics) > MOST_METRICS:
        raise InvalidRequest(f"choose at most {MOST_METRICS} metrics, not {len(metrics)}")
    if any(not 0 < len(name) <= _MOST_CHARACTERS or not is_storable(name) for name in metrics):
        raise InvalidRequest(f"a metric's name has 1 to {_MOST_CHARACTERS} characters that can be stored")
    return ChartSettings(tuple(metrics), x, smooth, log == "on")


ChartSettingsDep = Annotated[ChartSettings, Depends(chart_settings)]
assert set(ACROSS) == set(get_args(Across))
