"""Runs vLLM's server in vLLM's environment. Nothing of ours is imported here, and nothing of ours imports this.

Ends with the process that started it, even when that one was killed: its end of our stdin closes.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading

# The command `vllm` looks up a distribution of that name, which the CPU build does not have.
_SERVER = "vllm.entrypoints.openai.api_server"
_CPU_FLAGS = ["--dtype", "float32", "--enforce-eager"]
# Measuring what a tower takes beside the keys and values is for GPUs, and takes a CPU half a minute.
_CPU_FLAGS_WITH_PICTURES = ["--skip-mm-profiling"]
_EXTENSION = ["--worker-extension-cls", "worker_extension.WorkerExtension"]  # in the folder of this file


def main() -> None:
    """Serve until SIGTERM, or until the parent is gone."""
    if os.environ.get("HEADWAY_LIFELINE") == "1":
        threading.Thread(target=_follow_parent, daemon=True).start()
    # Looking for a GPU must not initialize CUDA in a process that vLLM forks.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import torch  # pyright: ignore[reportMissingImports]

    arguments = [*_EXTENSION, *sys.argv[1:]]
    if not torch.cuda.is_available():
        _prepare_for_cpu()
        sees = "--limit-mm-per-prompt" in arguments
        arguments = [*_CPU_FLAGS, *(_CPU_FLAGS_WITH_PICTURES if sees else []), *arguments]
    sys.argv = [_SERVER, *arguments]
    runpy.run_module(_SERVER, run_name="__main__", alter_sys=True)


def _prepare_for_cpu() -> None:
    os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # the first logprobs would compile for half a minute
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB
    os.environ.setdefault("OMP_NUM_THREADS", os.environ.get("HEADWAY_VLLM_THREADS", "1"))
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # the trainer lives on the same cores


def _follow_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
