"""What a Tinker SDK samples, of whichever version PYTHONPATH names, against the server of TINKER_BASE_URL.

Run as a program; prints one JSON object with what it saw. It imports nothing of ours.
"""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import sys
import warnings
from typing import Any

import tinker

warnings.simplefilter("ignore")

BASE = "tiny-arith"
PROMPT = tinker.ModelInput.from_ints([5, 6, 7, 8, 9, 10])


def settled(value: Any) -> Any:
    """The client itself, where newer SDKs return a future of it."""
    return value.result() if hasattr(value, "result") else value


def main() -> None:
    service = tinker.ServiceClient()
    base = settled(service.create_sampling_client(base_model=BASE))
    saw = {"version": tinker.__version__, **_answers(base), **_prompts(base), **_failures(base)}
    saw["many"] = asyncio.run(_many(base, int(sys.argv[1])))
    if "sample_join" in sys.argv[2:]:
        saw["copies"] = _copies(base)
    if "targets" in sys.argv[2:]:
        saw |= _targets(base)
    print(json.dumps(saw))


def sample(client: Any, num: int = 1, **params: Any) -> Any:
    params = {"max_tokens": 8, **params}
    return client.sample(PROMPT, num, tinker.SamplingParams(**params)).result()


def tokens(response: Any) -> list[list[int]]:
    return [list(sequence.tokens) for sequence in response.sequences]


def _answers(client: Any) -> dict[str, Any]:
    free = sample(client, 3, seed=-5, stop=[])
    stop_id = tokens(free)[0][2]
    stopped = sample(client, seed=-5, stop=[stop_id])
    text = client.get_tokenizer().decode(tokens(free)[0][1:3])
    greedy = [tokens(sample(client, temperature=0.0, seed=seed)) for seed in (1, 2)]
    return {
        "lengths": [len(one) for one in tokens(free)],
        "aligned": all(len(one.tokens) == len(one.logprobs) for one in free.sequences),
        "reproduced": tokens(sample(client, 3, seed=-5, stop=[])) == tokens(free),
        "differ": len({tuple(one) for one in tokens(free)}),
        "stop_id": tokens(stopped)[0] == tokens(free)[0][: tokens(free)[0].index(stop_id) + 1],
        "stop_string": _cut(client, free, text),
        "reasons": [free.sequences[0].stop_reason, stopped.sequences[0].stop_reason],
        "greedy": greedy[0] == greedy[1],
    }


def _cut(client: Any, free: Any, text: str) -> bool:
    """The tokens that complete the stop string stay in, and nothing after them."""
    found = tokens(sample(client, seed=-5, stop=text))[0]
    decoded = client.get_tokenizer().decode(found)
    return found == tokens(free)[0][: len(found)] and decoded.endswith(text)


def _prompts(client: Any) -> dict[str, Any]:
    answer = sample(client, seed=3, stop=[])
    whole = [*PROMPT.to_ints(), *tokens(answer)[0]]
    scored = client.compute_logprobs(tinker.ModelInput.from_ints(whole)).result()
    found = zip(scored[-len(tokens(answer)[0]) :], answer.sequences[0].logprobs, strict=True)
    params = tinker.SamplingParams(max_tokens=1)
    options = {"include_prompt_logprobs": True, "topk_prompt_logprobs": 4}
    top = client.sample(PROMPT, 1, params, **options).result()
    ids = PROMPT.to_ints()
    return {
        "first": scored[0],
        "length": len(scored) == len(whole),
        "error": max(abs(one - other) for one, other in found),
        "top_first": top.topk_prompt_logprobs[0],
        "top": [len(row) for row in top.topk_prompt_logprobs[1:]] == [4] * (len(ids) - 1),
        "top_agrees": all(
            math.isclose(dict(row).get(token, logprob), logprob, abs_tol=1e-5)
            for row, token, logprob in zip(top.topk_prompt_logprobs[1:], ids[1:], top.prompt_logprobs[1:], strict=True)
        ),
    }


def _failures(client: Any) -> dict[str, Any]:
    """Each fails by itself, and the client goes on."""
    seen = []
    for prompt, params in (([], {}), ([10**6], {}), ([5], {"max_tokens": 10**6}), ([5], {"temperature": -1.0})):
        sent = tinker.SamplingParams(**{"max_tokens": 2, **params})
        try:
            client.sample(tinker.ModelInput.from_ints(prompt), 1, sent).result()
        except tinker.RequestFailedError as error:
            seen.append(f"{getattr(error.category, 'value', error.category)}: {error.message}")
        except Exception as error:
            seen.append(f"{type(error).__name__}: {error}")
    return {"failures": seen}


async def _many(client: Any, number: int) -> int:
    """So many at once."""
    asked = [
        client.sample_async(PROMPT, 1, tinker.SamplingParams(max_tokens=2, seed=seed, stop=[]))
        for seed in range(number)
    ]
    responses = await asyncio.gather(*asked)
    return sum(len(response.sequences[0].tokens) == 2 for response in responses)


def _copies(client: Any) -> int:
    """Copies in other processes number their requests apart."""
    copies = [pickle.loads(pickle.dumps(client)) for _ in range(2)]
    return len({getattr(copy, "_cloned_sampler_id", copy) for copy in copies if sample(copy)})


def _targets(client: Any) -> dict[str, Any]:
    ids = PROMPT.to_ints()
    asked = [[token, 20] for token in ids[1:]]
    asked[1][1] = -1
    flat = [token for row in asked for token in row]
    targets = tinker.TensorData(data=flat, dtype="int64", shape=[len(asked), 2])
    params = tinker.SamplingParams(max_tokens=1)
    options = {"include_prompt_logprobs": True, "target_prompt_logprobs": targets, "topk_sample_logprobs": 3}
    response = client.sample(PROMPT, 1, params, **options).result()
    found = [float(value) for value in response.target_prompt_logprobs.data]
    own = [abs(one - other) for one, other in zip(found[::2], response.prompt_logprobs[1:], strict=True)]
    last = client.sample(PROMPT, 1, params, include_prompt_logprobs=True, prompt_logprobs_last_n=2).result()
    return {
        "targets": [max(own) < 1e-5, found[3], found[1] < 0],
        "shape": list(response.target_prompt_logprobs.shape),
        "top_sample": len(response.sequences[0].topk_logprobs[0]),
        "last_n": [logprob is None for logprob in last.prompt_logprobs],
    }


if __name__ == "__main__":
    main()
