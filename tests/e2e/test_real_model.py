"""A real model with its real tokenizer through real processes: SmolLM2-135M, which `make test-slow` downloads."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.conftest import database_folder
from tests.e2e.box import Box
from tests.e2e.rollouts import chat, group, sample_of, step, worst_disagreement

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]  # minutes on idle cores

SMOLLM2 = Path(__file__).parents[2] / ".headway-cache" / "smollm2"
END = 2
ASKED = "What is 3 + 4?"


@pytest.fixture(scope="module")
def real() -> Iterator[Box]:
    if not (SMOLLM2 / "config.json").exists():
        pytest.skip(f"no model in {SMOLLM2}: `make test-slow` downloads it, and fails where it cannot")
    with database_folder() as folder:
        box = Box(folder / "data", SMOLLM2, "--no-runner", "--seed", "0", start_timeout_s=600.0, slug="smollm2").start()
        yield box
        assert box.stop() == 0


@pytest.fixture(scope="module")
def tokenizer(real: Box) -> Any:
    return AutoTokenizer.from_pretrained(SMOLLM2)


def test_it_can_add_and_ends_its_answer_with_the_end_of_its_turn(real: Box, tokenizer: Any):
    [choice] = chat(real, "smollm2", ASKED, temperature=0.0, max_tokens=60)["choices"]
    assert "7" in choice["message"]["content"]
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"][-1] == END
    assert "<|im_end|>" not in choice["message"]["content"]
    asked = [{"role": "user", "content": ASKED}]
    expected = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    assert choice["prompt_token_ids"] == expected


def test_digits_are_tokens_of_their_own_as_the_model_learned_them(tokenizer: Any):
    assert tokenizer.tokenize("a\n\n12") == ["a", "ĊĊ", "1", "2"]


def test_a_step_moves_the_logprobs_that_sampler_and_trainer_agree_upon(real: Box):
    model_id = real.fork("agreeing")
    for seed in range(2):
        inputs = group(real, "agreeing", ASKED, seed=seed) + group(real, "agreeing", "Grüße aus 東京 🏔️?", seed=seed)
        assert worst_disagreement(real, model_id, inputs) < 1e-4
        stepped = step(real, model_id, inputs, learning_rate=2e-4, group_size=4)
        answer = chat(real, "agreeing", ASKED, temperature=0.0)
        assert answer["checkpoint"]["id"] == stepped["checkpoint_id"], "sampled from at once"
    before = chat(real, "smollm2", ASKED, temperature=0.0)["choices"][0]
    assert sample_of(answer["choices"][0])["output_logprobs"] != sample_of(before)["output_logprobs"]


def test_turns_that_hand_their_ids_back_are_one_datum(real: Box, tokenizer: Any):
    model_id = real.fork("turns")
    messages: list[dict[str, Any]] = []
    samples, handed_back = [], {}
    for text in (ASKED, "Say 東京 🏔️ and stop.", "  And 10 + 20?"):
        messages.append({"role": "user", "content": text})
        body = {"messages": messages, "max_tokens": 12, "seed": len(samples), **handed_back}
        [choice] = chat(real, "turns", **body)["choices"]
        samples.append(sample_of(choice))
        ids = [*choice["prompt_token_ids"], *choice["token_ids"]]
        messages.append({"role": "assistant", "content": choice["message"]["content"]})
        handed_back = {"prompt_token_ids": ids, "continuation_from": len(messages)}
    for earlier, later in itertools.pairwise(samples):
        history = earlier["prompt_token_ids"] + earlier["output_token_ids"]
        assert later["prompt_token_ids"][: len(history)] == history
        behind = tokenizer.decode(later["prompt_token_ids"][len(history) - 1 :])
        assert behind.count("<|im_end|>") == 2, "the end of the answer, once, and of the question"
    inputs = [{"samples": samples, "reward": 1.0}]
    forward = real.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": inputs})
    assert len(forward["data"]) == 1
    assert worst_disagreement(real, model_id, inputs) < 1e-4


def test_a_stream_of_split_characters_says_what_the_whole_answer_says(real: Box):
    import openai

    client = openai.OpenAI(base_url=f"{real.url}/v1", api_key=real.env["HUD_API_KEY"], max_retries=0)
    asked: Any = [{"role": "user", "content": "Repeat: 東京 🏔️ Grüße"}]
    wanted: Any = {"model": "smollm2", "messages": asked, "max_tokens": 40, "seed": 3}
    whole = client.chat.completions.create(**wanted).choices[0].message.content
    chunks = client.chat.completions.create(**wanted, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == whole


def demo(real: Box, out: Path) -> subprocess.Popen[str]:
    arguments = ["--base-model=smollm2", "--steps=2", "--groups=2", "--group-size=4", "--held-out=4", f"--out={out}"]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "examples.demo", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **real.env, "HUD_SKIP_VERSION_CHECK": "1"},
    )


def test_the_demo_says_how_long_it_takes_and_goes_on_where_it_was_stopped(real: Box, tmp_path: Path):
    stopped = demo(real, tmp_path)
    assert stopped.stdout is not None
    said = list[str]()
    for line in stopped.stdout:
        said.append(line)
        if line.startswith("step  1/2  reward"):
            stopped.send_signal(signal.SIGINT)
    assert stopped.wait(120) == 130, said
    assert any("tokens/s and trains" in line for line in said)
    assert "the same command goes on" in said[-1]
    first = json.loads((tmp_path / "demo.json").read_text())
    assert [one["step"] for one in first["steps"]] == [1]

    shown = demo(real, tmp_path).communicate(timeout=1200)[0]
    assert f"going on with {first['model']} behind step 1 of 2" in shown
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert [one["step"] for one in figures["steps"]] == [1, 2]
    assert figures["steps"][0] == first["steps"][0]
    assert all(abs(one["kl"]) < 1e-4 for one in figures["steps"])
    assert figures["rollback"]["trained"] == figures["rollback"]["restored"]
    (model_id,) = [m["id"] for m in real.call("GET", "/v2/models")["items"] if m["model_name"] == figures["model"]]
    nodes = {node["id"]: node for node in real.call("GET", f"/v2/models/{model_id}/checkpoints")}
    last = nodes[figures["steps"][1]["checkpoint_id"]]
    assert last["prev_model_checkpoint_id"] == figures["steps"][0]["checkpoint_id"]
