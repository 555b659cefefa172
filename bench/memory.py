"""Peak memory of a step, above what was held before it.

On a CPU it is counted, not sampled: the profiler reports each allocation and release of torch's allocator, saved
tensors and scratch of kernels included, and the peak is that of their running sum. What this leaves out: buffers
inside the BLAS library, numpy, Python; and the release of what was allocated before, so it never says too little.
Resident set size was not taken, for the allocator gives freed pages back late.
On a CUDA device it is what torch's caching allocator says.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def peak_bytes(step: Callable[[], object]) -> int:
    """Of one call."""
    return _peak_on_cuda(step) if torch.cuda.is_available() else _peak_on_cpu(step)


def _peak_on_cpu(step: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def _peak_on_cuda(step: Callable[[], object]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
