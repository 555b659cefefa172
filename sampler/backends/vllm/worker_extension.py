"""Runs in vLLM's worker, on a CPU: the logits of a prompt's tokens get the adapter of their own request.

vLLM computes these logits with the adapters of the batch's next tokens, one row for each request, though a prompt has
many rows: beside other requests that fails, or adds what belongs to another request. Here each prompt's logits are
computed while the mapping holds that request alone, whose one row then stands for all of the prompt's.

Nothing of ours is imported here, and nothing of ours imports this (`launch.py` names it on the command line).
"""

from __future__ import annotations

from typing import Any

from vllm.v1.worker.gpu_model_runner import GPUModelRunner  # pyright: ignore[reportMissingImports]

_Runner: Any = GPUModelRunner
_prompt_logprobs: Any = _Runner._get_prompt_logprobs_dict


class WorkerExtension:
    """Adds no methods; that it was imported is its effect."""


def _of_each_request_alone(self: Any, hidden_states: Any, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
    asked: dict[str, int] = self.num_prompt_logprobs
    mapping = _mapping(self)
    if not asked or mapping is None:
        return _prompt_logprobs(self, hidden_states, num_scheduled_tokens)
    found, adapters, lengths = dict[str, Any](), mapping.sampler_indices.clone(), list(mapping.indices_len)
    try:
        for request in [request for request in asked if request in num_scheduled_tokens]:
            self.num_prompt_logprobs = {request: asked[request]}
            mapping._sampler_indices[0] = adapters[self.input_batch.req_id_to_index[request]]
            mapping.indices_len[1] = 1
            found |= _prompt_logprobs(self, hidden_states, num_scheduled_tokens)
            if request not in self.num_prompt_logprobs:
                del asked[request]
    finally:
        self.num_prompt_logprobs = asked
        mapping.indices_len[:] = lengths
        mapping._sampler_indices[: len(adapters)] = adapters
    return found


def _mapping(runner: Any) -> Any:
    """Which adapter is for which row, where the head may have adapters."""
    processor: Any = getattr(runner.model, "logits_processor", None)
    return getattr(processor, "punica_wrapper", None)


_Runner._get_prompt_logprobs_dict = _of_each_request_alone
