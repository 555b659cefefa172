"""How far the download and the loading of weights are: a log line every few seconds, in place of the bars that the
libraries draw for a terminal."""

from __future__ import annotations

import io
import time
from typing import Any

import structlog
from tqdm import tqdm

log = structlog.get_logger(__name__)

EVENT = "loading_weights"
_EVERY_S = 3.0


class LoggedBar(tqdm):  # pyright: ignore[reportMissingTypeArgument]
    """A bar of the libraries' own kind that logs instead of drawing. Of bars that count bytes (but those of the
    network, which come beside them) and of the one that loads weights; others are silent."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._began_at = self._said_at = time.monotonic()
        self._has_said = False
        ours = {"file": io.StringIO(), "mininterval": _EVERY_S / 2, "disable": False}
        options.pop("name", None)
        super().__init__(*args, **{**options, **ours})

    def display(self, *_: Any, **__: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Called now and then, and at the end."""
        is_whole = bool(self.total) and self.n >= self.total
        now = time.monotonic()
        if self._is_silent() or not (now - self._said_at >= _EVERY_S or (is_whole and self._has_said)):
            return
        self._said_at, self._has_said = now, not is_whole
        total = self._known_total()
        percent = round(100 * min(1.0, self.n / total)) if total else None
        log.info(EVENT, said=self._sentence(total, percent), percent=percent, seconds=round(now - self._began_at))

    def _is_silent(self) -> bool:
        if self.unit == "B":
            return self.desc.startswith("Downloading bytes")
        return not self.desc.startswith("Loading")

    def _known_total(self) -> float:
        return self.total or 0

    def _sentence(self, total: float, percent: int | None) -> str:
        so_far = f" ({percent} %)" if percent is not None else ""
        if self.unit != "B":
            return f"loaded {self.n:.0f} of {total:.0f} tensors{so_far}"
        return f"downloaded {size(self.n)}{f' of {size(total)}' if total else ''}{so_far}"


def bar_of(total_bytes: int | None) -> type[LoggedBar]:
    """For a download of so many bytes: the libraries' own total grows with each file that begins."""

    class Bar(LoggedBar):
        def _known_total(self) -> float:
            return total_bytes or super()._known_total()

    return Bar


def logged_bar(_factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> LoggedBar:
    """What transformers draws instead, by `transformers.utils.logging.set_tqdm_hook`."""
    return LoggedBar(*args, **options)


def no_bar(factory: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """As `logged_bar`, where another process of this host says how far it is."""
    return factory(*args, **{**options, "disable": True})


def size(num_bytes: float) -> str:
    """1.2 GB, 34 MB."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.3g} {unit}"
    return f"{num_bytes / 1e3:.0f} kB"
