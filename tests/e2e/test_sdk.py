"""The unmodified SDK against real processes: its training client, its agent, its CLI."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from tests.e2e.box import Box
from tests.e2e.hud_command import run_hud
from tests.e2e.rollouts import chat, greedy, group


def client_of(model: str) -> Any:
    """A training client of a model that was forked after the SDK first read the catalog, which it reads once."""
    from hud.train import TrainingClient
    from hud.utils.gateway import list_gateway_models

    list_gateway_models.cache_clear()
    return TrainingClient(model)


def payloads(box: Box, model: str, seed: int = 0) -> list[Any]:
    from hud.train import TrajectoryPayload

    return [TrajectoryPayload(**item) for p in ("12+30=?", "7+8=?") for item in group(box, model, p, seed=seed)]


def hud_json(*args: str) -> Any:
    done = run_hud(*args, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


LOSSES = [
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "dr_grpo", "truncated_importance_sampling"
]  # fmt: skip


async def test_the_training_client_steps_lists_and_rolls_back(box: Box):
    box.fork("sdk-loop")
    trainer = client_of("sdk-loop")
    assert sorted(await trainer.available_losses()) == sorted(LOSSES)
    assert await trainer.head() is None

    passed = await trainer.forward_backward(payloads(box, "sdk-loop"), group_size=4)
    assert passed.num_datums == 8
    assert np.isfinite(passed.metrics["loss:sum"])
    first = await trainer.optim_step(learning_rate=1e-3)
    assert (first.step, first.model) == (1, "sdk-loop")
    assert chat(box, "sdk-loop")["checkpoint"]["id"] == first.checkpoint_id, "sampled from at once"

    second = await trainer.step(payloads(box, "sdk-loop", 1), learning_rate=1e-3, group_size=4)
    nodes = await trainer.checkpoints()
    assert [c.id for c in nodes] == [first.checkpoint_id, second.checkpoint_id]
    assert [c.prev_model_checkpoint_id for c in nodes] == [None, first.checkpoint_id]
    assert nodes[0].mean_reward == pytest.approx(1.5)
    assert nodes[0].num_traces == nodes[0].num_datums == 8
    assert nodes[0].learning_rate == 1e-3
    assert nodes[0].loss_fn == "importance_sampling"
    assert nodes[0].metrics["reward_std"] > 0

    await trainer.set_head(first.checkpoint_id)
    head = await trainer.head()
    assert head is not None
    assert head.id == first.checkpoint_id


@pytest.mark.parametrize("loss_fn", LOSSES)
async def test_every_loss_trains(box: Box, loss_fn: str):
    name = f"loss-{loss_fn.replace('_', '-')}"
    box.fork(name)
    before = greedy(box, name)
    result = await client_of(name).step(
        payloads(box, name), learning_rate=1e-3, group_size=4, loss_fn=loss_fn, num_substeps=2
    )
    assert result.step == 1
    assert greedy(box, name) != before


async def test_a_loss_takes_the_options_that_all_losses_have(box: Box):
    box.fork("loss-options")
    config = {"epsilon": 0.1, "kl_penalty_coef": 0.1, "advantage_std": 1.0, "normalize_by_tokens": 1.0}
    result = await client_of("loss-options").forward_backward(
        payloads(box, "loss-options"), group_size=4, loss_fn="ppo", loss_fn_config=config
    )
    assert result.metrics["kl_base:mean"] == 0, "a fresh adapter is the base"


async def test_a_custom_loss_trains(box: Box):
    box.fork("custom-loss")
    trainer = client_of("custom-loss")

    def reinforce(data: Any, logprobs: Any) -> Any:
        import torch

        loss = -sum((torch.tensor(d.mask) * p).sum() * (d.reward - 1.5) for d, p in zip(data, logprobs, strict=True))
        return loss, {"datums": float(len(data))}

    result = await trainer.forward_backward_custom(payloads(box, "custom-loss"), reinforce, group_size=4)
    assert result.metrics["datums"] == 8.0
    assert (await trainer.optim_step(learning_rate=1e-3)).step == 1


async def test_the_agents_turns_merge_into_one_datum(box: Box, tiny_base: Path):
    """The SDK's own agent, with a system prompt (whose message its continuation does not count)."""
    from hud.agents import create_agent
    from hud.train import TrajectoryPayload, TrajectorySample

    box.fork("turns")
    trainer = client_of("turns")
    # Greedy: a sampled answer may hold a tool call's marker, and a fresh rendering then has it in another place.
    wanted = {"max_tokens": 6, "temperature": 0.0, "extra_body": {"return_token_ids": True}}
    agent = create_agent("turns", completion_kwargs=wanted)
    state = await agent._initialize_state(prompt=[])
    samples = []
    for text in ("12+30=?", "and 7+8=?", "and 1+1=?"):
        state.messages.append(agent._format_message("user", text))
        step = await agent.get_response(state, system_prompt="Answer with a number.")
        samples.append(step.sample)
    for earlier, later in pairwise(samples):
        history = earlier.prompt_token_ids + earlier.output_token_ids
        assert later.prompt_token_ids[: len(history)] == history
    turns = [
        TrajectorySample(
            prompt_token_ids=s.prompt_token_ids,
            output_token_ids=s.output_token_ids,
            output_logprobs=s.output_logprobs,
        )
        for s in samples
    ]
    data = (await trainer.forward([TrajectoryPayload(samples=turns, reward=1.0)])).data
    assert len(data) == 1
    mask = np.array(data[0].mask) == 1.0
    assert mask.sum() == sum(len(s.output_token_ids) for s in samples)
    assert np.abs(np.array(data[0].logprobs) - np.array(data[0].sampling_logprobs))[mask].max() < 1e-4
    whole = chat(box, "turns", messages=[{"role": "system", "content": "Answer with a number."}, *state.messages[:-1]])
    assert whole["choices"][0]["prompt_token_ids"] == _with_answers_reencoded(samples, state.messages, tiny_base)


def _with_answers_reencoded(samples: list[Any], messages: list[Any], base: Path) -> list[int]:
    """The last prompt as rendering the conversation afresh gives it: another tokenization of the answers, no more.

    Sampled bytes need not be text: what does not survive decoding is exactly why a continuation keeps the tokens.
    """
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    header, end = "<|im_start|>assistant\n", tokenizer.token_to_id("<|im_end|>")
    answers = [message["content"] for message in messages if message["role"] == "assistant"]
    kept, rendered = samples[-1].prompt_token_ids, []
    position = 0
    for sample, answer in zip(samples[:-1], answers, strict=False):
        start, stop = len(sample.prompt_token_ids), len(sample.prompt_token_ids) + len(sample.output_token_ids)
        stop -= sample.output_token_ids[-1] == end
        rendered += kept[position : start - len(encode(header))] + encode(header + answer)
        position = stop
    return rendered + kept[position:]


def test_the_cli_lists_forks_and_rolls_back(box: Box):
    assert "tiny-arith" in run_hud("models", "list").stdout
    assert "tiny-arith" in json.dumps(hud_json("models", "list"))

    forked = hud_json("models", "fork", "tiny-arith", "--name", "cli-fork", "--yes")
    assert "cli-fork" in json.dumps(forked)
    again = run_hud("models", "fork", "tiny-arith", "--name", "cli-fork", "--yes")
    assert again.returncode == 1
    assert "taken" in again.stderr + again.stdout
    assert run_hud("models", "fork", "tiny-arith", "--name", "cli-fork", "--yes", "--if-not-exists").returncode == 0

    model_id = next(m["id"] for m in box.call("GET", "/v2/models")["items"] if m["model_name"] == "cli-fork")
    assert run_hud("models", "checkpoints", "cli-fork").returncode == 0
    assert run_hud("models", "head", "cli-fork").returncode == 0
    steps = []
    for _ in range(2):
        body = {"inputs": group(box, "cli-fork", "12+30=?"), "group_size": 4}
        box.call("POST", f"/v1/models/{model_id}/train/forward-backward", body)
        steps.append(box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3}))

    listed = json.dumps(hud_json("models", "checkpoints", "cli-fork"))
    assert all(s["checkpoint_id"] in listed for s in steps)
    assert steps[1]["checkpoint_id"] in json.dumps(hud_json("models", "head", "cli-fork"))
    done = run_hud("models", "head", "cli-fork", "--set", steps[0]["checkpoint_id"], "--yes")
    assert done.returncode == 0, done.stdout + done.stderr
    assert steps[0]["checkpoint_id"] in json.dumps(hud_json("models", "head", "cli-fork"))


def test_the_cli_prints_one_sentence_for_a_refusal(box: Box):
    box.fork("cli-refused")
    done = run_hud("models", "head", "cli-refused", "--set", "0" * 32, "--yes")
    assert done.returncode == 1
    assert "Request failed: " in done.stderr
    assert "checkpoint" in done.stderr


async def test_refusals_reach_the_caller_as_one_sentence_and_change_nothing(box: Box):
    from hud.utils.exceptions import HudRequestError

    model_id = box.fork("refusals")
    trainer = client_of("refusals")
    good = payloads(box, "refusals")
    bad = good[0].model_copy(deep=True)
    bad.samples[0].output_token_ids[0] = 10_000_000
    with pytest.raises(HudRequestError, match=r"Request failed: .*input 0.*vocabulary"):
        await trainer.forward_backward([bad, *good[1:]], group_size=4)
    with pytest.raises(HudRequestError, match=r"Request failed: .*nothing_like_it.*cispo"):
        await trainer.forward_backward(good, group_size=4, loss_fn="nothing_like_it")
    with pytest.raises(HudRequestError, match=r"Request failed: .*epsilonn.*epsilon"):
        await trainer.forward_backward(good, group_size=4, loss_fn="ppo", loss_fn_config={"epsilonn": 0.2})
    with pytest.raises(HudRequestError, match=r"Request failed: .*trace id"):
        await trainer.forward_backward(["f" * 32, *good[1:]], group_size=4)
    with pytest.raises(HudRequestError, match=r"Request failed: .*call forward-backward first"):
        await trainer.optim_step(learning_rate=1e-3)
    assert box.call("GET", f"/v2/models/{model_id}/checkpoints") == []
