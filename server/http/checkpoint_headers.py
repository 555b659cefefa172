"""Which weights answered, for those who do not parse the body, and what makes a training rollout off-policy."""

from __future__ import annotations

from collections.abc import Sequence

from server.sampling.target import Target

CHECKPOINT_HEADER = "X-Headway-Checkpoint"
OFF_POLICY_HEADER = "X-Headway-Off-Policy"


def checkpoint_headers(target: Target, off_policy: Sequence[str]) -> dict[str, str]:
    """Of a reply. `off_policy`: settings under which logprobs are not those that a trainer computes."""
    headers = {CHECKPOINT_HEADER: target.checkpoint.name if target.checkpoint else "base"}
    return {**headers, OFF_POLICY_HEADER: ", ".join(off_policy)} if off_policy else headers
