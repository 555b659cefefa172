"""Runs in vLLM's workers: the logits of a prompt's tokens get the adapter of their own request, and heads of vision
models can have one.

vLLM computes these logits while the adapters of the head are mapped for the batch's next tokens, one row for each
request, though a prompt has many rows: that fails, leaves the adapter out, or adds that of another request. Here the
mapping holds, while they are computed, what it holds for the same tokens in the layers before the head. Whether that
is right is for `scoring.py` to measure.

Nothing of ours is imported here, and nothing of ours imports this: `launch.py` names it on the command line.
"""

from __future__ import annotations

import contextlib
import importlib
import math
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

_LARGEST_ADAPTED_HEAD = 258_048
"""Tokens. vLLM does not start where a larger head is to have adapters, as Gemma's would."""

# R rows: consecutive tokens of the batch, of which the head's input is given


class WorkerExtension:
    """Adds no methods; that it was imported is its effect."""


class OwnRows:
    """Stands for `compute_logits` of a model whose head may have adapters: each call is for the tokens that follow
    those of the call before, beginning with the batch's token number `first`."""

    def __init__(self, compute_logits: Callable[[Any], Any], mapping: Any, first: int) -> None:
        self._compute_logits = compute_logits
        self._mapping = mapping
        self._first = first

    def __call__(self, hidden_RH: Any) -> Any:
        num_rows = hidden_RH.shape[0]
        first, self._first = self._first, self._first + num_rows
        with _mapped(self._mapping, self._mapping.token_lora_indices[first : first + num_rows]):
            return self._compute_logits(hidden_RH)


@contextmanager
def _mapped(mapping: Any, indices_R: Any) -> Generator[None]:
    on_gpu = getattr(mapping, "prompt_mapping_meta", None)
    if on_gpu is not None:
        with _sync_allowed():
            on_gpu.prepare_tensors(indices_R)
        try:
            yield
        finally:
            with _sync_allowed():
                on_gpu.prepare_tensors(mapping.sampler_indices)
        return
    # On a CPU one row stands for any number, and all of these are of one request; the head's weights would otherwise be
    # copied for each.
    before, lengths = mapping.sampler_indices.clone(), list(mapping.indices_len)
    mapping._sampler_indices[0] = indices_R[0]
    mapping.indices_len[1] = 1
    try:
        yield
    finally:
        mapping.indices_len[:] = lengths
        mapping._sampler_indices[: len(before)] = before


def _mapping_of(model: Any) -> Any:
    """Which adapter is for which row, where the head may have adapters. A vision model's head is its text part's."""
    text = model if hasattr(model, "logits_processor") else getattr(model, "language_model", None)
    return getattr(getattr(text, "logits_processor", None), "punica_wrapper", None)


def _sync_allowed() -> Any:
    try:
        return importlib.import_module("vllm.utils.gpu_sync_debug").gpu_sync_allowed()
    except (ImportError, AttributeError):
        return contextlib.nullcontext()


def _patch_first_runner() -> None:
    """The model runner of CPUs, and of GPUs where the second one cannot be had: a request at a time."""
    runner: Any = importlib.import_module("vllm.v1.worker.gpu_model_runner").GPUModelRunner
    original = runner._get_prompt_logprobs_dict

    def of_each_request(self: Any, hidden_states: Any, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        asked: dict[str, int] = self.num_prompt_logprobs
        mapping = _mapping_of(self.model)
        if not asked or mapping is None:
            return original(self, hidden_states, num_scheduled_tokens)
        found, compute_logits = dict[str, Any](), self.model.compute_logits
        try:
            for request in [request for request in asked if request in num_scheduled_tokens]:
                first = self.query_start_loc.np[self.input_batch.req_id_to_index[request]].item()
                self.num_prompt_logprobs = {request: asked[request]}
                self.model.compute_logits = OwnRows(compute_logits, mapping, first)
                found |= original(self, hidden_states, num_scheduled_tokens)
                if request not in self.num_prompt_logprobs:
                    del asked[request]
        finally:
            self.num_prompt_logprobs = asked
            vars(self.model).pop("compute_logits", None)
        return found

    runner._get_prompt_logprobs_dict = of_each_request


def _patch_second_runner() -> None:
    """The model runner of GPUs: all tokens of the batch, in pieces."""
    worker: Any = importlib.import_module("vllm.v1.worker.gpu.sample.prompt_logprob").PromptLogprobsWorker
    original = worker.compute_prompt_logprobs

    def of_each_token(self: Any, compute_logits: Any, *rest: Any, **named: Any) -> dict[str, Any]:
        mapping = _mapping_of(getattr(compute_logits, "__self__", None))
        if mapping is not None and getattr(mapping, "prompt_mapping_meta", None) is not None:
            compute_logits = OwnRows(compute_logits, mapping, 0)
        return original(self, compute_logits, *rest, **named)

    worker.compute_prompt_logprobs = of_each_token


def _patch_adapted_heads() -> None:
    """Of vision models: vLLM's class for one may not say that its text part's head can be adapted, though all that it
    takes is there. Of text models the class decides."""
    manager: Any = importlib.import_module("vllm.lora.model_manager")
    original = manager.get_supported_lora_modules

    def with_head(model: Any) -> list[str]:
        found: list[str] = original(model)
        return [*found, "lm_head"] if "lm_head" not in found and _can_adapt_head(model) else found

    manager.get_supported_lora_modules = with_head


def _can_adapt_head(model: Any) -> bool:
    text = getattr(model, "language_model", None)
    head, logits = getattr(text, "lm_head", None), getattr(text, "logits_processor", None)
    return type(head).__name__ == "ParallelLMHead" and getattr(logits, "vocab_size", math.inf) <= _LARGEST_ADAPTED_HEAD


for patch in (_patch_first_runner, _patch_second_runner, _patch_adapted_heads):
    # Another version of vLLM may have another way; then it serves as it is.
    with contextlib.suppress(ImportError, AttributeError):
        patch()
