"""A question with a time limit: whoever asks goes on without the answer, and may come back for it."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Asked:
    """`ask`, called at once in a thread of its own. What holds it up (a lock, a server that is stopped, a network that
    loses packets) holds up nobody else, nor the end of this process."""

    def __init__(self, ask: Callable[[], None]) -> None:
        self._ask = ask
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="asking", daemon=True)
        self._thread.start()

    def has_ended(self, within_s: float) -> bool:
        """Waits for so long at most. Raises what `ask` has raised."""
        self._thread.join(within_s)
        if self._thread.is_alive():
            return False
        if self._error is not None:
            raise self._error
        return True

    def _run(self) -> None:
        try:
            self._ask()
        except BaseException as error:
            self._error = error
