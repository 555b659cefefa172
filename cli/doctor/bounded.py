"""A bound on the time of each part: a folder on a server that is away, or an answer that comes a byte at a time, holds
no check up for ever."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from cli.doctor.finding import Finding, State

_MOST_S = 60.0


def examined(part: str, examine: Callable[[], Iterable[Finding]], most_s: float = _MOST_S) -> list[Finding]:
    """What is found within so many seconds, and that the rest was not; in a thread that ends with the command. Raises
    what `examine` raises."""
    found, failures = list[Finding](), list[BaseException]()

    def carry_out() -> None:
        try:
            found.extend(examine())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=carry_out, name=f"doctor-{part}", daemon=True)
    thread.start()
    thread.join(most_s)
    if failures:
        raise failures[0]
    if thread.is_alive():
        remedy = "it hangs, or answers by bits: see its log, and what lies between here and there"
        return [*found, Finding(part, "reachable", State.NOT_OK, f"not done within {most_s:.0f} s", remedy)]
    return found
