"""Logprobs of a prompt in plain vLLM, as JSON: `python taken_home.py BASE ADAPTER MERGED`, by the Python of vLLM."""

from __future__ import annotations

import json
import os
import sys

IDS = [5, 9, 12, 3, 7, 20, 11, 4]
SETTINGS = {"dtype": "float32", "enforce_eager": True, "max_model_len": 64, "max_num_seqs": 2}


def main(base: str, adapter: str, merged: str) -> None:
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0)

    def logprobs(llm: LLM, lora: LoRARequest | None = None) -> list[float]:
        (done,) = llm.generate([{"prompt_token_ids": IDS}], asked, lora_request=lora)
        return [entry[token].logprob for entry, token in zip(done.prompt_logprobs[1:], IDS[1:], strict=True)]

    found = {"merged": logprobs(LLM(model=merged, **SETTINGS))}
    beside = LLM(model=base, enable_lora=True, max_lora_rank=64, **SETTINGS)
    found["adapter"] = logprobs(beside, LoRARequest("taken-home", 1, adapter))
    found["base"] = logprobs(beside)
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    main(*sys.argv[1:])
