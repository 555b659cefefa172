"""`headway`, whose CPU samplers generate for one request at a time: logits do not depend on what is sampled beside, so
two managed runs leave the same bits. What is kept as a blob when it is large is one here from 1 KiB on."""

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


def _blobs_from(num_bytes: int) -> None:
    from store.oplog import append, work
    from store.rollouts import samples

    append.INLINE_BYTES = work.INLINE_BYTES = samples.INLINE_BYTES = num_bytes


if __name__ == "__main__":
    _blobs_from(1024)
    if sys.argv[1] == "sampler":
        _one_request_at_a_time()
    start()
