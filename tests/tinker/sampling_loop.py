"""Samples in rounds, for longer than it takes to kill a process or two; prints all tokens as JSON. Run as a program."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import tinker

PROMPT = tinker.ModelInput.from_ints([5, 6, 7, 8, 9, 10])


async def sampled(client: Any, seeds: range) -> list[list[int]]:
    params = [tinker.SamplingParams(max_tokens=24, seed=seed, stop=[]) for seed in seeds]
    responses = await asyncio.gather(*(client.sample_async(PROMPT, 1, one) for one in params))
    return [list(response.sequences[0].tokens) for response in responses]


async def main(rounds: int) -> None:
    client: Any = tinker.ServiceClient().create_sampling_client(base_model="tiny-arith")
    client = client.result() if hasattr(client, "result") else client
    tokens = []
    for number in range(rounds):
        tokens += await sampled(client, range(16 * number, 16 * number + 16))
        print(f"round {number}", file=sys.stderr, flush=True)
    print(json.dumps(tokens))


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
