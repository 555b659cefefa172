"""Every export format, read by the libraries that it is for, or held to what their loaders ask of a row."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from server.rollouts.formats import FORMATS
from store.blob_stores.file import FileBlobStore
from store.rollouts import Conversation, RecordedSample, Resolved, TraceFacts
from wire.extension import Media
from wire.trajectories import Turn

NOW = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
TOOLS = [{"type": "function", "function": {"name": "move", "parameters": {"type": "object"}}}]


def facts(**changes: Any) -> TraceFacts:
    values: dict[str, Any] = dict.fromkeys(TraceFacts.__dataclass_fields__)
    values |= {"id": uuid.uuid4(), "team_id": uuid.uuid4(), "status": "completed", "reward": 0.1, "created_at": NOW}
    values |= {"checkpoint_ids": [], "flags": [], "labels": [], "num_turns": 0, "task_slug": "game", **changes}
    return TraceFacts(**values)


def game(turns: int, *, tools: bool = False, **changes: Any) -> Resolved:
    """A game with a tool's answer to every move. Logprobs that no short decimal equals."""
    random, messages = np.random.default_rng(turns), [{"role": "system", "content": "Play."}]
    samples, prompt = list[RecordedSample](), np.arange(5, dtype=np.int32)
    messages.append({"role": "user", "content": "é begin"})
    for number in range(turns):
        output = random.integers(0, 9999, 4).astype(np.int32)
        turn = Turn(prompt, output, -random.random(4).astype(np.float32))
        reply: dict[str, Any] = {"role": "assistant", "content": f"move {number}"}
        if tools:
            call = {"id": f"c{number}", "type": "function", "function": {"name": "move", "arguments": '{"to": 1}'}}
            reply["tool_calls"] = [call]
        asked = Conversation({"tools": TOOLS} if tools else {}, list(messages), reply)
        known = (uuid.uuid4().hex, uuid.uuid4(), None, {"temperature": 1.0}, "stop", 0.25)
        samples.append(RecordedSample(b"", NOW, turn, number, NOW, *known, asked))
        messages += [reply, {"role": "tool" if tools else "user", "content": f"board {number}"}]
        prompt = np.concatenate([prompt, output, prompt[:2]])
    return Resolved(facts(**changes), tuple(samples), True)


def wordless() -> Resolved:
    sample = RecordedSample(b"", NOW, game(1).samples[0].turn, 1, *[None] * 7, None)
    return Resolved(facts(), (sample,), True)


ROLLOUTS = [game(12, tools=True), game(1, reward=-1.5), wordless(), game(3, reward=None)]


def write(folder: Path, name: Any, rollouts: list[Resolved] = ROLLOUTS, *, with_pictures: bool = False) -> Path:
    file = FORMATS[name].file(FileBlobStore(folder / "blobs"), with_pictures=with_pictures)
    path = folder / f"rollouts{file.suffix}"
    pieces = [piece for one in rollouts for piece in file.writer.write([one])]
    path.write_bytes(b"".join([*pieces, file.writer.close()]))
    return path


def screenshots(folder: Path) -> Resolved:
    """Three turns that see the same picture, and the last one another besides."""
    blobs, png = FileBlobStore(folder / "blobs"), io.BytesIO()
    Image.new("RGB", (40, 30)).save(png, "PNG")
    first, second = (bytes.fromhex(blobs.put(data)) for data in (png.getvalue(), png.getvalue() + b"other"))
    played = game(3)
    media = (Media(1, 2, first, 40, 30),), (Media(1, 2, first, 40, 30), Media(4, 1, second, 40, 30))
    samples = [
        replace(sample, turn=replace(sample.turn, media=media[number == 2]))
        for number, sample in enumerate(played.samples)
    ]
    return replace(played, samples=tuple(samples))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def assert_exact(rows: Any) -> None:
    """Token ids, logprobs and rewards as they were recorded, to the last bit."""
    for row, resolved in zip(rows, ROLLOUTS, strict=True):
        reward = None if row["reward"] is None or np.isnan(row["reward"]) else row["reward"]
        assert (row["trace_id"], reward) == (str(resolved.trace.id), resolved.trace.reward)
        for turn, sample in zip(row["turns"], resolved.samples, strict=True):
            assert list(turn["prompt_token_ids"]) == sample.turn.prompt_ids.tolist()
            assert list(turn["output_token_ids"]) == sample.turn.output_ids.tolist()
            logprobs = np.array(turn["output_logprobs"], np.float32)
            assert logprobs.tobytes() == sample.turn.sampling_logprobs.tobytes()


@pytest.mark.parametrize("name", ["headway", "parquet"])
def test_pandas_and_datasets_read_every_bit(name, tmp_path):
    import datasets
    import pandas

    path = write(tmp_path, name)
    loaded = datasets.load_dataset("parquet" if name == "parquet" else "json", data_files=str(path), split="train")
    assert_exact(loaded)
    frame = pandas.read_parquet(path) if name == "parquet" else pandas.read_json(path, lines=True, precise_float=True)
    if name == "parquet":
        assert_exact(row for _, row in frame.iterrows())
    assert frame["reward"].tolist()[:2] == [0.1, -1.5]
    assert loaded[0]["completion"][0]["tool_calls"][0]["function"] == {"name": "move", "arguments": '{"to": 1}'}
    assert loaded[2]["prompt"] is None


def test_a_parquet_file_that_was_cut_off_does_not_open(tmp_path):
    import pyarrow.parquet

    path = write(tmp_path, "parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(pyarrow.ArrowInvalid):
        pyarrow.parquet.read_table(path)


def test_pictures_come_in_a_tar_once_each_before_the_lines_that_name_them(tmp_path):
    seen = screenshots(tmp_path)
    names = [item.name for item in seen.samples[2].turn.media]
    path = write(tmp_path, "headway", [game(1), seen, seen], with_pictures=True)
    with tarfile.open(path) as file:
        members = {member.name: file.extractfile(member) for member in file}
        found = {name: member.read() for name, member in members.items() if member is not None}
    pictures = [f"pictures/{name}.png" for name in names]
    assert list(found) == ["rollouts-000001.jsonl", *pictures, "rollouts-000002.jsonl", "rollouts-000003.jsonl"]
    assert [hashlib.sha256(found[picture]).hexdigest() for picture in pictures] == names
    turns = json.loads(found["rollouts-000002.jsonl"])["turns"]
    assert turns[0]["prompt_media"] == [{"start": 1, "num_tokens": 2, "name": names[0], "width": 40, "height": 30}]
    assert [one["name"] for one in turns[2]["prompt_media"]] == names


def test_a_parquet_file_has_the_bytes_of_each_picture_once_a_row(tmp_path):
    import pandas

    seen = screenshots(tmp_path)
    frame = pandas.read_parquet(write(tmp_path, "parquet", [game(1), seen], with_pictures=True))
    assert [len(pictures) for pictures in frame["pictures"]] == [0, 2]
    for picture in frame["pictures"][1]:
        assert hashlib.sha256(picture["bytes"]).hexdigest() == picture["name"]
    without = pandas.read_parquet(write(tmp_path, "parquet", [seen]))
    assert [picture["bytes"] for picture in without["pictures"][0]] == [None, None]
    assert [one["num_tokens"] for one in without["turns"][0][2]["prompt_media"]] == [2, 1]


def test_datasets_reads_lines_of_which_some_have_pictures(tmp_path):
    import datasets

    path = write(tmp_path, "headway", [game(1), screenshots(tmp_path), wordless()])
    loaded = datasets.load_dataset("json", data_files=str(path), split="train")
    assert [len(row["turns"][-1]["prompt_media"]) for row in loaded] == [0, 2, 0]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A word-level tokenizer with a chat template, made here: nothing is downloaded."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"[U]": 0, "a": 1}, unk_token="[U]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[U]", pad_token="[U]", eos_token="[U]")
    wrapped.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return wrapped


def test_trl_takes_the_file(tmp_path, tokenizer):
    """`trl.data_utils`, which its trainers prepare every dataset with."""
    from datasets import load_dataset
    from trl.data_utils import apply_chat_template, is_conversational

    loaded = load_dataset("json", data_files=str(write(tmp_path, "trl")), split="train")
    assert len(loaded) == 3, "the rollout without words is left out"
    assert all(is_conversational(row) for row in loaded)
    told = apply_chat_template({key: loaded[1][key] for key in ("prompt", "completion")}, tokenizer)
    assert told["prompt"].endswith("<user>é begin\n<assistant>")
    assert told["completion"] == "move 0\n"
    roles = [message["role"] for message in loaded[0]["completion"]]
    assert roles == ["assistant", "tool"] * 11 + ["assistant"]
    assert json.loads(loaded[0]["tools"]) == TOOLS


def test_verl_finds_what_its_dataset_asks_for(tmp_path, tokenizer):
    """verl 0.9.1, `verl/utils/dataset/rl_dataset.py`, RLHFDataset: reads .jsonl through datasets, renders `prompt` with
    the tokenizer, and takes `index` and `tools_kwargs` out of `extra_info`. Its reward managers read `data_source`,
    `reward_model.ground_truth` and `extra_info`."""
    from datasets import load_dataset

    loaded = load_dataset("json", data_files=str(write(tmp_path, "verl")), split="train")
    for number, row in enumerate(loaded):
        assert tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, tokenize=False)
        assert (row["data_source"], row["ability"]) == ("game", "")
        assert row["reward_model"] == {"style": "rule", "ground_truth": ""}
        assert row["extra_info"]["index"] == number
        assert row["extra_info"].get("tools_kwargs", {}) == {}
    assert [row["extra_info"]["reward"] for row in loaded] == [0.1, -1.5, None]


def test_openrlhf_finds_what_its_datasets_ask_for(tmp_path, tokenizer):
    """OpenRLHF 0.11.2, `openrlhf/datasets`: prompts_dataset.py renders `input` and reads `datasource`; sft_dataset.py
    renders `input + output` and cuts the prompt off."""
    from datasets import load_dataset

    loaded = load_dataset("json", data_files=str(write(tmp_path, "openrlhf")), split="train")
    row = loaded[1]
    prompt = tokenizer.apply_chat_template(row["input"], tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template(row["input"] + row["output"], tokenize=False)
    assert whole[len(prompt) :] == "move 0\n"
    assert {row["datasource"] for row in loaded} == {"game"}


def test_openai_gets_messages_that_end_with_the_users(tmp_path):
    rows = lines(write(tmp_path, "openai-rft"))
    assert len(rows) == 3
    for row in rows:
        assert [message["role"] for message in row["messages"]] == ["developer", "user"]
        assert all(isinstance(message["content"], str) for message in row["messages"])
    assert rows[0]["tools"] == TOOLS
    assert rows[1]["reference_answer"] == "move 0"


def test_a_rewritten_history_is_told_by_what_the_agent_said(tmp_path):
    resolved = game(2)
    last = resolved.samples[1]
    assert last.conversation
    last.conversation.messages[:] = [{"role": "user", "content": "in short"}]
    (row,) = lines(write(tmp_path, "trl", [resolved]))
    assert [message["content"] for message in row["completion"]] == ["move 0", "move 1"]
