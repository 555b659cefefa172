"""vLLM's HTTP API, as far as we use it."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from wire.errors import Conflict, CorruptCheckpoint, HeadwayError, InvalidRequest, NotFound, Unavailable

_ADAPTER_TIMEOUT_S = 120.0
_HEALTH_TIMEOUT_S = 10.0
_IDLE_S = 3.0
"""An idle connection is used again for so long: vLLM ends it after 5 s, and would lose what comes in that moment."""
_NOTHING = -9999.0
"""What vLLM sends in place of −inf and NaN."""

_TOKEN_COUNTERS = ("vllm:prompt_tokens_total", "vllm:generation_tokens_total")

Chunk = dict[str, Any]


class VllmClient:
    """One server. Methods that block may be called from any thread; `generate` belongs to an event loop."""

    def __init__(self) -> None:
        self._http = httpx.Client(
            trust_env=False, timeout=_ADAPTER_TIMEOUT_S, limits=httpx.Limits(keepalive_expiry=_IDLE_S)
        )
        # Sampling takes as long as it takes; the server's health is watched elsewhere.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256, keepalive_expiry=_IDLE_S)
        self._streams = httpx.AsyncClient(trust_env=False, timeout=httpx.Timeout(None, connect=5.0), limits=limits)

    def is_healthy(self, url: str) -> bool:
        """Whether the server answers, and its engine lives."""
        try:
            return self._http.get(f"{url}/health", timeout=_HEALTH_TIMEOUT_S).status_code == 200
        except httpx.HTTPError:
            return False

    def num_tokens_so_far(self, url: str) -> float | None:
        """Prompt and output tokens since the server began, from its metrics; None: it does not say."""
        try:
            lines = self._http.get(f"{url}/metrics", timeout=_HEALTH_TIMEOUT_S).text.splitlines()
        except httpx.HTTPError:
            return None
        counts = [float(line.rpartition(" ")[2]) for line in lines if line.startswith(_TOKEN_COUNTERS)]
        return sum(counts) if counts else None

    def version(self, url: str) -> str:
        """Of vLLM, as far as it says so."""
        try:
            return str(self._http.get(f"{url}/version", timeout=_HEALTH_TIMEOUT_S).json()["version"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return "of unknown version"

    def generates(self, url: str) -> bool:
        """Whether the base samples a token within seconds."""
        try:
            body = {
                "model": self.models(url)[0]["id"],
                "token_ids": [0],
                "sampling_params": {"max_tokens": 1, "detokenize": False, "ignore_eos": True},
            }
            response = self._http.post(f"{url}/inference/v1/generate", json=body, timeout=_HEALTH_TIMEOUT_S)
        except (httpx.HTTPError, Unavailable):
            return False
        return response.status_code == 200

    def models(self, url: str) -> list[dict[str, Any]]:
        """The base, then every adapter. Raises Unavailable."""
        try:
            return self._http.get(f"{url}/v1/models", timeout=_HEALTH_TIMEOUT_S).json()["data"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise _no_answer(error) from error

    def load(self, url: str, name: str, path: str) -> None:
        """Raises NotFound, Conflict, CorruptCheckpoint or Unavailable."""
        response = self._post(f"{url}/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})
        if response.status_code == 200:
            return
        if response.status_code == 500 and not self.is_healthy(url):
            raise Unavailable(f"vLLM died over adapter {name}: {_sentence(response.content)}")
        kind = {404: NotFound, 400: Conflict}.get(response.status_code, CorruptCheckpoint)
        raise kind(f"adapter {name}: {_sentence(response.content)}")

    def unload(self, url: str, name: str) -> None:
        """Unknown names are fine. Raises Unavailable."""
        response = self._post(f"{url}/v1/unload_lora_adapter", {"lora_name": name})
        if response.status_code not in (200, 404):
            raise Unavailable(f"vLLM does not unload adapter {name}: {_sentence(response.content)}")

    def logprob_of(self, url: str, name: str, prompt: list[int], token_id: int | None, **more: Any) -> float:
        """Of a likely token (None: the likeliest) after the prompt, at temperature 1. NaN where vLLM has no logprobs,
        −inf where the token is not among the likely ones. `more` are other fields of the request. Raises
        HeadwayError."""
        # Not `logprob_token_ids`: while one request asks for those, others in the batch get them as alternatives.
        params = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "ignore_eos": True, "logprobs": 5}
        answer = self.generate_now(url, {"model": name, "token_ids": prompt, "sampling_params": params, **more})
        (position,) = answer["choices"][0]["logprobs"]["content"]
        sampled = finite_or_nan(position["logprob"])
        found = {top["token_id"]: top["logprob"] for top in position["top_logprobs"]}
        return sampled if token_id is None or math.isnan(sampled) else found.get(token_id, -math.inf)

    def generate_now(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """The whole answer to a request to generate. Blocks. Raises HeadwayError."""
        response = self._post(f"{url}/inference/v1/generate", body)
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)
        return response.json()

    async def prompt_logprobs(
        self, url: str, name: str, prompt: list[int], num_top: int, **more: Any
    ) -> list[dict[int, float]]:
        """Of each token after the first, its own logprob and those of the `num_top` likeliest. Raises HeadwayError."""
        params = {"max_tokens": 1, "temperature": 0.0, "detokenize": False, "ignore_eos": True}
        body = {"model": name, "token_ids": prompt, "sampling_params": {**params, "prompt_logprobs": num_top}, **more}
        answer = await self.ask(f"{url}/inference/v1/generate", body)
        rows: list[dict[str, Any]] = answer["prompt_logprobs"][1:]
        return [{int(id_): finite_or_nan(about["logprob"]) for id_, about in row.items()} for row in rows]

    async def generate(
        self, url: str, name: str, prompt: list[int], params: dict[str, Any], *, whole: bool, **more: Any
    ) -> AsyncGenerator[Chunk]:
        """The choices of one answer as they come, or all at the end; closing it makes the server stop. `more` are other
        fields of the request. Raises HeadwayError."""
        body = {"model": name, "token_ids": prompt, "sampling_params": params, "stream": not whole, **more}
        try:
            async with self._streams.stream("POST", f"{url}/inference/v1/generate", json=body) as response:
                if response.status_code != 200:
                    raise _refusal(response.status_code, await response.aread())
                if whole:
                    yield json.loads(await response.aread())["choices"][0]
                    return
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        yield _choice(line)
        except httpx.HTTPError as error:
            raise _no_answer(error) from error

    async def ask(self, url: str, body: dict[str, Any]) -> dict[str, Any]:
        """A question that is answered whole. Raises HeadwayError."""
        try:
            response = await self._streams.post(url, json=body)
        except httpx.HTTPError as error:
            raise _no_answer(error) from error
        if response.status_code != 200:
            raise _refusal(response.status_code, response.content)
        return response.json()

    def close(self) -> None:
        """Drop the connections that threads used; those of a loop go with it."""
        self._http.close()

    def _post(self, url: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return self._http.post(url, json=body)
        except httpx.HTTPError as error:
            raise _no_answer(error) from error


def finite_or_nan(logprob: float) -> float:
    """Undo vLLM's stand-in for what JSON cannot hold."""
    return math.nan if logprob <= _NOTHING else logprob


def _choice(line: str) -> Chunk:
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise _refusal(int(chunk["error"].get("code") or 500), line.removeprefix("data: ").encode())
    return chunk["choices"][0]


def _refusal(status: int, body: bytes) -> HeadwayError:
    kind = {404: NotFound, 400: InvalidRequest, 422: InvalidRequest, 503: Unavailable}.get(status, HeadwayError)
    return kind(f"vLLM: {_sentence(body)}")


def _no_answer(error: Exception) -> Unavailable:
    return Unavailable(f"vLLM does not answer ({type(error).__name__}); it is started again", retry_after_s=2)


def _sentence(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode(errors="replace")[:500] or "no reason given"
