"""`headway`, whose CPU samplers generate for one request at a time: logits do not depend on what is sampled beside, so
two managed runs leave the same bits."""

from __future__ import annotations

import sys
from typing import Any

from cli.start import start


def _one_request_at_a_time() -> None:
    from sampler.backends.local.scheduler import Scheduler

    make = Scheduler.__init__

    def make_for_one(self: Scheduler, *args: Any, **options: Any) -> None:
        make(self, *args, **{**options, "max_running": 1})

    Scheduler.__init__ = make_for_one


if __name__ == "__main__":
    if sys.argv[1] == "sampler":
        _one_request_at_a_time()
    start()
