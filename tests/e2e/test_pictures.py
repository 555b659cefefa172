"""Pictures from the wire to the weights: shown to a small base that sees, on record, continued and trained on."""

from __future__ import annotations

import base64
import os
import uuid
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import anthropic
import numpy as np
import pytest

from examples.pictures.drawing import Drawing
from tests.conftest import database_folder
from tests.e2e.box import Box, point_sdk_at
from tests.e2e.deployed import deploy
from tests.e2e.rollouts import sample_of
from tests.e2e.test_other_apis import agent_of
from tests.e2e.test_recorded_rollouts import assert_same_weights
from tests.e2e.test_sdk import client_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TINY_EYES = ROOT / ".headway-cache" / "tiny-eyes"
ENVIRONMENT = ROOT / "examples" / "pictures" / "env.py"
NUMBERS = (12, 47, 83, 90)


@pytest.fixture(scope="module")
def eyes_box() -> Iterator[Box]:
    """The SDK of this process asks it while the tests of this module run."""
    assert (TINY_EYES / "config.json").exists(), "run `make test-slow`, which builds the base that sees first"
    with database_folder() as folder, pytest.MonkeyPatch.context() as patch:
        box = Box(folder / "data", TINY_EYES, "--seed", "0", slug="tiny-eyes").start()
        for name, value in {**box.env, "NO_PROXY": "127.0.0.1", "HUD_SKIP_VERSION_CHECK": "1"}.items():
            patch.setenv(name, value)
        settings = _sdk_settings()
        before = {name: getattr(settings, name) for name in type(settings).model_fields}
        point_sdk_at(box)
        yield box
        for name, value in before.items():
            setattr(settings, name, value)
        assert box.stop() == 0


def _sdk_settings() -> Any:
    from hud.settings import settings

    return settings


def shown(number: int, seed: int = 0) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(Drawing(number, seed).png()).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def tasks() -> list[Any]:
    from hud.eval import Task

    return [Task(env="pictures", id="read", args={"number": number, "seed": 0}) for number in NUMBERS]


def model_id_of(box: Box, name: str) -> str:
    return next(m["id"] for m in box.call("GET", "/v2/models")["items"] if m["model_name"] == name)


def locations(chunks: list[dict[str, Any]] | None) -> list[str]:
    return [chunk["location"] for chunk in chunks or [] if chunk["type"] == "image_asset_pointer"]


def disagreement(data: list[Any]) -> float:
    """Largest |sampler logprob − trainer logprob| of sampled tokens."""
    worst = 0.0
    for datum in data:
        mask = np.array(datum.mask) == 1.0
        assert mask.any()
        worst = max(worst, float(np.abs(np.array(datum.logprobs) - np.array(datum.sampling_logprobs))[mask].max()))
    return worst


@pytest.fixture(scope="module")
async def runs(eyes_box: Box) -> list[Any]:
    """Rollouts of the SDK's agent, whose tool returns screenshots."""
    from hud import LocalRuntime, Taskset

    from examples.grpo import sampling_agent

    eyes_box.fork("looking")
    client_of("looking")
    job = await Taskset("pictures", tasks()).run(
        sampling_agent("looking", 1.0, 12), runtime=LocalRuntime(ENVIRONMENT), max_concurrent=4
    )
    return job.runs


async def test_screenshots_of_the_agent_are_continued_and_its_turns_are_one_sequence(eyes_box: Box, runs: list[Any]):
    from hud.train.client import _run_to_input

    inputs = [_run_to_input(run) for run in runs]
    looked = [one for one in inputs if len(one.samples) > 1]
    assert looked, "the base calls its tool"
    for one in looked:
        for earlier, later in pairwise(one.samples):
            assert len(locations(later.prompt_chunks)) > len(locations(earlier.prompt_chunks))
            history = [*(earlier.prompt_token_ids or []), *earlier.output_token_ids]
            assert (later.prompt_token_ids or [])[: len(history)] == history
    data = (await client_of("looking").forward(looked)).data
    assert len(data) == len(looked), "all turns of a rollout are one datum"
    assert disagreement(data) < 1e-4


async def test_a_recorded_screenshot_is_a_name_and_trains_like_the_inline_one(eyes_box: Box, runs: list[Any]):
    from hud.train.client import _run_to_input

    inline = []
    for reward, run in enumerate(runs):
        eyes_box.call("POST", f"/v2/trace/{run.trace_id}/exit", {"status": "completed", "reward": float(reward)})
        inline.append(_run_to_input(run).model_copy(update={"reward": float(reward)}))
    turn = eyes_box.call("GET", f"/v2/traces/{runs[0].trace_id}")["turns"][-1]
    contents = [message.get("content") for message in turn["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    names = [part["name"] for part in parts if part["type"] == "picture"]
    assert [f"sha256:{name}" for name in names] == locations(inline[0].samples[-1].prompt_chunks) != []
    assert "base64" not in str(turn["messages"])
    await assert_same_weights(
        eyes_box, "looking", model_id_of(eyes_box, "looking"), inline, [run.trace_id for run in runs]
    )


async def test_hosted_rollouts_look_at_the_screen_and_train(eyes_box: Box):
    from hud import Taskset
    from hud.eval.runtime import HostedRuntime

    from examples.grpo import sampling_agent

    assert deploy(eyes_box, ENVIRONMENT.parent, "pictures")["status"] == "SUCCEEDED"
    eyes_box.fork("hosted-eyes")
    client = client_of("hosted-eyes")
    agent, runtime = sampling_agent("hosted-eyes", 1.0, 12), HostedRuntime(poll_interval=0.1)
    job = await Taskset("pictures", tasks()[:2]).run(agent, runtime=runtime, group=2)
    assert [run.trace.error for run in job.runs if run.grade.is_error] == []
    shown = [eyes_box.call("GET", f"/v2/traces/{run.trace_id}") for run in job.runs]
    assert all(one["flags"] == [] for one in shown)
    assert "picture" in str([turn["messages"] for one in shown for turn in one["turns"]])
    assert (await client.step(job.runs, learning_rate=1e-3, group_size=2)).step == 1


@pytest.mark.parametrize("kind", ["claude", "openai"])
async def test_agents_of_other_apis_take_screenshots_and_train_by_the_trace(eyes_box: Box, kind: str):
    from hud import LocalRuntime, Taskset

    name = f"looking-{kind}"
    eyes_box.fork(name)
    client = client_of(name)
    job = await Taskset("pictures", tasks()).run(
        agent_of(kind, name, 12), runtime=LocalRuntime(ENVIRONMENT), max_concurrent=4
    )
    assert [run.trace.error for run in job.runs if run.grade.is_error] == []
    traces = [run.trace_id for run in job.runs]
    turns = [eyes_box.call("GET", f"/v2/traces/{trace}")["turns"] for trace in traces]
    assert max(map(len, turns)) > 1, "the base calls its tool"
    for earlier, later in (pair for one in turns for pair in pairwise(one)):
        history = earlier["prompt_token_ids"] + earlier["output_token_ids"]
        assert later["prompt_token_ids"][: len(history)] == history
    data = (await client.forward(traces)).data
    assert len(data) == len(traces)
    assert disagreement(data) < 1e-4


def conversation(box: Box, model: str, seed: int) -> dict[str, Any]:
    """Three turns, two pictures each, continued by their ids; as a training input."""
    messages: list[dict[str, Any]] = []
    so_far: list[int] = []
    samples = list[dict[str, Any]]()
    for turn in range(3):
        pictures = [shown(NUMBERS[(turn + i + seed) % 4], seed) for i in range(2)]
        messages.append({"role": "user", "content": [*pictures, {"type": "text", "text": "?"}]})
        continued = {"prompt_token_ids": so_far, "continuation_from": len(messages) - 1} if so_far else {}
        asked = {"model": model, "messages": messages, "logprobs": True, "return_token_ids": True, "max_tokens": 6}
        (choice,) = box.call("POST", "/v1/chat/completions", {**asked, "seed": seed, **continued})["choices"]
        assert len(locations(choice["prompt_chunks"])) == 2 * (turn + 1)
        samples.append({**sample_of(choice), "prompt_chunks": choice["prompt_chunks"]})
        so_far = choice["prompt_token_ids"] + choice["token_ids"]
        messages.append(choice["message"])
    return {"samples": samples, "reward": float(seed)}


def test_sampler_and_trainer_agree_about_several_pictures_and_turns_before_and_after_a_step(eyes_box: Box):
    model_id = eyes_box.fork("several")

    def agree() -> list[dict[str, Any]]:
        inputs = [conversation(eyes_box, "several", seed) for seed in range(4)]
        data = eyes_box.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": inputs})["data"]
        assert len(data) == len(inputs)
        for datum in data:
            mask = np.array(datum["mask"]) == 1.0
            assert np.abs(np.array(datum["logprobs"]) - np.array(datum["sampling_logprobs"]))[mask].max() < 1e-4
        return inputs

    for _ in range(2):
        batch = {"inputs": agree(), "group_size": 4}
        eyes_box.call("POST", f"/v1/models/{model_id}/train/forward-backward", batch)
        eyes_box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 3e-3})
    agree()
    nodes = eyes_box.call("GET", f"/v2/models/{model_id}/checkpoints")
    assert [node["metrics"]["grad_norm"] > 0 for node in nodes] == [True, True]


async def test_another_picture_is_another_prompt_to_the_trainer(eyes_box: Box):
    """The same ids, with the pictures of two rollouts changed about: the trainer's logprobs follow the pictures."""
    model_id = eyes_box.fork("swapped")
    one, other = (conversation(eyes_box, "swapped", seed) for seed in (0, 2))
    swapped = {**one, "samples": [{**one["samples"][0], "prompt_chunks": other["samples"][0]["prompt_chunks"]}]}
    alone = {**one, "samples": one["samples"][:1]}
    data = eyes_box.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": [alone, swapped]})["data"]
    first, second = (np.array(datum["logprobs"])[np.array(datum["mask"]) == 1.0] for datum in data)
    assert np.abs(first - second).max() > 1e-3


async def test_anthropics_client_goes_on_without_ids_and_trains_by_the_trace(eyes_box: Box):
    eyes_box.fork("messages")
    trace, asked = uuid.uuid4().hex, list[Any]()
    headers = {"Trace-Id": trace}
    key = os.environ["HUD_API_KEY"]
    async with anthropic.AsyncAnthropic(base_url=eyes_box.url, api_key=key, default_headers=headers) as client:
        for number in NUMBERS[:3]:
            data = base64.b64encode(Drawing(number, 1).png()).decode()
            source = {"type": "base64", "media_type": "image/png", "data": data}
            content = [{"type": "image", "source": source}, {"type": "text", "text": "?"}]
            asked.append({"role": "user", "content": content})
            message = await client.messages.create(model="messages", max_tokens=6, messages=asked)
            asked.append({"role": "assistant", "content": [block.model_dump() for block in message.content] or " "})
    turns = eyes_box.call("GET", f"/v2/traces/{uuid.UUID(trace)}")["turns"]
    assert len(turns) == 3
    for earlier, later in pairwise(turns):
        history = earlier["prompt_token_ids"] + earlier["output_token_ids"]
        assert later["prompt_token_ids"][: len(history)] == history
    eyes_box.call("POST", f"/v2/trace/{trace}/exit", {"status": "completed", "reward": 1.0})
    data = (await client_of("messages").forward([trace])).data
    assert len(data) == 1
    assert disagreement(data) < 1e-4
