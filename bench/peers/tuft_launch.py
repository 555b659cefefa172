"""`tuft` on a machine without a GPU, run by the interpreter of its environment.

Ray hands out one that is not there, or the actor that trains would never be placed; and that actor's calls to reset the
peak of CUDA memory, which torch's build for CPUs cannot answer, do nothing. All else is TuFT as it comes.
"""

from __future__ import annotations

import os

import ray  # pyright: ignore[reportMissingImports]
import tuft.cli  # pyright: ignore[reportMissingImports]


def _without_cuda() -> None:
    import torch

    torch.cuda.reset_peak_memory_stats = lambda *_: None


if __name__ == "__main__":
    ray.init(
        num_cpus=os.cpu_count(),
        num_gpus=1,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": _without_cuda},
    )
    tuft.cli.main()
