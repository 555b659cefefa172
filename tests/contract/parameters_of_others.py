"""The names of what requests may say elsewhere. vLLM's are committed, for it is not installed where these tests run;
`tests/vllm/test_parameters_of_vllm.py` compares them with those of the vLLM that is."""

from __future__ import annotations

from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats

VLLM_BOTH = frozenset(
    [
        "add_special_tokens",
        "allowed_token_ids",
        "bad_words",
        "cache_salt",
        "echo",
        "ec_transfer_params",
        "frequency_penalty",
        "ignore_eos",
        "include_stop_str_in_output",
        "kv_transfer_params",
        "length_penalty",
        "logit_bias",
        "logprob_token_ids",
        "logprobs",
        "max_tokens",
        "min_p",
        "min_tokens",
        "mm_payload",
        "model",
        "n",
        "presence_penalty",
        "priority",
        "prompt_logprobs",
        "repetition_detection",
        "repetition_penalty",
        "request_id",
        "response_format",
        "return_mm_kwargs",
        "return_token_ids",
        "return_token_offsets",
        "return_tokens_as_token_ids",
        "routed_experts_prompt_start",
        "seed",
        "session_id",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop",
        "stop_token_ids",
        "stream",
        "stream_interval",
        "stream_options",
        "structured_outputs",
        "temperature",
        "thinking_token_budget",
        "top_k",
        "top_p",
        "truncate_prompt_tokens",
        "truncation_side",
        "use_beam_search",
        "user",
        "vllm_xargs",
        "watermarking",
    ]
)
"""vLLM 0.32's `ChatCompletionRequest` and `CompletionRequest`."""
VLLM_CHATS = VLLM_BOTH | frozenset(
    [
        "add_generation_prompt",
        "chat_template",
        "chat_template_kwargs",
        "continue_final_message",
        "documents",
        "include_reasoning",
        "max_completion_tokens",
        "media_io_kwargs",
        "messages",
        "mm_processor_kwargs",
        "parallel_tool_calls",
        "reasoning_effort",
        "return_prompt_text",
        "tool_choice",
        "tools",
        "top_logprobs",
    ]
)
VLLM_COMPLETIONS = VLLM_BOTH | frozenset(("prompt", "prompt_embeds", "suffix"))

OPENAI_CHATS = frozenset(
    {
        *chats.CompletionCreateParamsBase.__annotations__,
        *chats.CompletionCreateParamsStreaming.__annotations__,
    }
)
OPENAI_COMPLETIONS = frozenset(
    {
        *completions.CompletionCreateParamsBase.__annotations__,
        *completions.CompletionCreateParamsStreaming.__annotations__,
    }
)

OF_OTHER_SERVERS = {
    "chat_template": "{{ 'X' }}",
    "documents": [{"title": "t", "text": "x"}],
    "reasoning_effort": "none",
    "thinking_token_budget": 1,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "include_reasoning": False,
    "separate_reasoning": False,
    "structural_tag": {"a": 1},
    "logprob_token_ids": [1],
    "add_special_tokens": True,
    "do_sample": False,
    "num_beams": 4,
    "max_new_tokens": 5,
    "no_repeat_ngram_size": 3,
    "mirostat": 2,
    "top_a": 0.3,
    "tfs_z": 0.9,
    "xtc_probability": 0.5,
    "dry_multiplier": 0.8,
    "repeat_penalty": 1.1,
    "samplers": ["top_k"],
    "grammar": 'root ::= "a"',
    "n_predict": 5,
    "regex": "a",
    "ebnf": 'root ::= "a"',
    "json_schema": "{}",
    "stop_regex": "a",
    "lora_path": "other",
    "custom_logit_processor": "x",
}
"""Of SGLang, llama.cpp, Transformers, Anthropic and vLLM: each would change the sample or the reply."""
