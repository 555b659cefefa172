from __future__ import annotations

import threading

from trainer.worker.stopping import Stop
from trainer.worker.watchdog import Watchdog


def test_who_does_not_move_for_long_stands_still_and_who_asks_whether_to_stop_moves():
    noticed = threading.Event()
    watchdog = Watchdog(1.0, lambda for_s: noticed.set())
    stop = Stop(60, lambda: None, watchdog.seen)
    watchdog.start()
    for _ in range(30):
        assert not noticed.wait(0.1)
        stop.check()
        stop.is_set()
    assert noticed.wait(60)
