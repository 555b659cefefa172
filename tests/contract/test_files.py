"""OpenAI's files, with OpenAI's client."""

from __future__ import annotations

import json

import openai
import pytest

from tests.contract.conftest import LIMITS

TASK = {"env": "sums", "task": "add", "args": {"n": 3}, "slug": "add-3"}
ASKED = {"messages": [{"role": "user", "content": "3+4?"}], "answer": "7"}


def lines(*objects) -> bytes:
    return b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in objects)


def client_of(team, origin: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{origin}/v1", api_key=team.key, max_retries=0)


@pytest.fixture
def client(team, origin) -> openai.AsyncOpenAI:
    return client_of(team, origin)


async def test_a_file_is_taken_listed_read_and_deleted(client):
    content = lines(TASK, b"", {**TASK, "slug": "another"}) + b"\n"
    file = await client.files.create(file=("a b.jsonl", content), purpose="fine-tune")
    assert (file.object, file.filename, file.bytes, file.status) == ("file", "a b.jsonl", len(content), "processed")
    assert (await client.files.wait_for_processing(file.id)).id == file.id
    assert await client.files.retrieve(file.id) == file
    assert (await client.files.content(file.id)).read() == content
    deleted = await client.files.delete(file.id)
    assert (deleted.id, deleted.deleted) == (file.id, True)
    with pytest.raises(openai.NotFoundError):
        await client.files.retrieve(file.id)
    with pytest.raises(openai.NotFoundError):
        await client.files.content(file.id)


async def test_lists_go_on_after_the_last_file(client):
    made = [(await client.files.create(file=lines(ASKED), purpose="fine-tune")).id for _ in range(5)]
    assert [file.id async for file in client.files.list(limit=2)] == made[::-1]
    assert [file.id async for file in client.files.list(limit=2, order="asc", purpose="fine-tune")] == made
    first = await client.files.list(limit=2)
    assert (len(first.data), first.has_more) == (2, True)
    assert (await client.files.list(purpose="batch")).data == []
    with pytest.raises(openai.NotFoundError):
        await client.files.list(after="file-nothing")


async def test_another_team_finds_nothing(client, other_team, origin):
    file = await client.files.create(file=lines(ASKED), purpose="fine-tune")
    other = client_of(other_team, origin)
    assert (await other.files.list()).data == []
    for call in (other.files.retrieve, other.files.content, other.files.delete):
        with pytest.raises(openai.NotFoundError):
            await call(file.id)
    assert (await client.files.content(file.id)).read() == lines(ASKED)


TRAJECTORY = {"prompt_token_ids": [1, 2], "output_token_ids": [3], "output_logprobs": [-0.25], "reward": 1.0}
SEEN = {"start": 0, "num_tokens": 2, "name": "0" * 64, "width": 4, "height": 4}
SEEING = {"prompt_token_ids": [9, 9], "prompt_media": [SEEN], "output_token_ids": [3]}
SPOKEN = [{"role": "user", "content": "3+4?"}], [{"role": "assistant", "content": "7"}]
TAKEN = {
    "task without arguments": {"env": "sums", "task": "add"},
    "conversation": ASKED,
    "parts of text": {"messages": [{"role": "user", "content": [{"type": "text", "text": "3+4?"}]}]},
    "example with a weight": {"messages": [*SPOKEN[0], {"role": "assistant", "content": "7", "weight": 0}]},
    "trl": {"prompt": SPOKEN[0], "completion": SPOKEN[1], "reward": 1.0, "tools": "[]"},
    "trl of texts": {"prompt": "3+4?", "completion": "7", "reward": 1.0},
    "openrlhf": {"input": SPOKEN[0], "output": SPOKEN[1], "reward": 1.0},
    "verl": {"prompt": SPOKEN[0], "extra_info": {"completion": SPOKEN[1]}},
    "headway": TRAJECTORY,
}


@pytest.mark.parametrize("case", TAKEN)
async def test_each_kind_of_line_is_taken(client, case):
    file = await client.files.create(file=lines(TAKEN[case], TAKEN[case]), purpose="fine-tune")
    assert file.status == "processed"


REFUSED = {
    "empty": (b"", "the file is empty"),
    "blank": (b"\n \n", "the file is empty"),
    "no JSON": (lines(TASK, b"{"), "line 2: is not valid JSON"),
    "NaN": (lines(TASK, b'{"env": "e", "task": "t", "args": {"x": NaN}}'), "line 2: is not valid JSON: NaN is no JSON"),
    "no object": (lines(TASK, b"", b"[]"), "line 3: must be a JSON object"),
    "unknown field of a task": (lines({**TASK, "arg": {}}), "line 1: unknown field arg"),
    "task without a name": (lines({"env": "e"}), "line 1: task is missing"),
    "two kinds": (lines(TASK, ASKED), "line 2 is of the kind messages, the lines before it of the kind tasks"),
    "unknown shape": (lines({"question": "3+4?"}), "line 1: is none of the lines that are taken"),
    "no messages": (lines({"messages": []}), "line 1: messages must be a list of messages"),
    "unknown role": (lines({"messages": [{"role": "robot", "content": "x"}]}), "line 1: messages[0].role"),
    "image": (
        lines({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}),
        "line 1: messages[0].content",
    ),
    "no content": (lines({"messages": [{"role": "user"}]}), "line 1: messages[0].content is missing"),
    "weight of a user": (
        lines({"messages": [{"role": "user", "content": "x", "weight": 1}]}),
        "line 1: messages[0].weight is for messages of the assistant alone",
    ),
    "NUL": (lines({**TASK, "env": "a\0"}), "line 1: env, task or slug holds a character that cannot be stored"),
    "trajectory with a missing logprob": (lines({**TRAJECTORY, "output_logprobs": [1, 2]}), "line 1: turn 1: 2 output"),
    "trajectory with a picture": (lines({"turns": [SEEING], "reward": 1.0}), "line 1: names pictures"),
    "deep": (b'{"env": "e", "task": "t", "args": ' + b'{"a": ' * 300 + b"1" + b"}" * 301, "line 1: it is nested too"),
    "very deep": (b'{"a": ' * 12_000, "line 1: is n"),
    "not UTF-8": (b'{"env": "\xff", "task": "t"}', "line 1: is not valid JSON"),
    "late": (lines(*[TASK] * 3000, {"messages": 1}), "line 3001: messages must be a list"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_wrong_line_refuses_the_file_by_its_number(client, case):
    content, sentence = REFUSED[case]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.files.create(file=("x.jsonl", content), purpose="fine-tune")
    assert sentence in refused.value.body["message"]
    assert "\n" not in refused.value.body["message"]
    assert refused.value.body["type"] == "invalid_request_error"
    assert (await client.files.list()).data == []


async def test_other_purposes_and_options_are_refused_by_name(client):
    with pytest.raises(openai.BadRequestError, match="purpose 'batch' is not offered"):
        await client.files.create(file=lines(TASK), purpose="batch")
    expiring = {"anchor": "created_at", "seconds": 3600}
    with pytest.raises(openai.BadRequestError, match="expires_after"):
        await client.files.create(file=lines(TASK), purpose="fine-tune", expires_after=expiring)


FORM = b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n'
FILE = b'--x\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n{"env":"e","task":"t"}\r\n'
MALFORMED = {
    "JSON": (b"{}", "application/json", "send the file as multipart/form-data"),
    "no boundary": (FORM, "multipart/form-data", "send the file as multipart/form-data"),
    "other boundary": (FORM, "multipart/form-data; boundary=y", "the body is no valid multipart form"),
    "cut off": (FORM + FILE[:90], "multipart/form-data; boundary=x", "the body ended before the form did"),
    "nothing": (b"", "multipart/form-data; boundary=x", "the body ended before the form did"),
    "no file": (FORM + b"--x--\r\n", "multipart/form-data; boundary=x", "the form has no file"),
    "no purpose": (FILE + b"--x--\r\n", "multipart/form-data; boundary=x", "purpose is missing"),
    "two files": (FORM + FILE + FILE + b"--x--\r\n", "multipart/form-data; boundary=x", "the form has two files"),
    "many parts": (FORM * 40 + b"--x--\r\n", "multipart/form-data; boundary=x", "more than 32 parts"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_malformed_form_is_refused_in_one_sentence(team, case):
    body, content_type, sentence = MALFORMED[case]
    reply = await team.http.post("/v1/files", content=body, headers={"Content-Type": content_type})
    assert reply.status_code == 400, reply.text
    assert sentence in reply.json()["error"]["message"]


async def test_a_file_that_outgrows_the_bound_is_cut_off(team):
    async def endless():
        yield FORM + FILE[: FILE.index(b"{")]
        for _ in range(LIMITS.file_bytes // 1024**2 + 1):
            yield lines(*[TASK] * 1024).ljust(1024**2, b"\n")

    content_type = {"Content-Type": "multipart/form-data; boundary=x"}
    reply = await team.http.post("/v1/files", content=endless(), headers=content_type)
    assert reply.status_code == 413, reply.text
    assert reply.json()["error"]["message"].startswith("the file is larger than")
    assert (await team.http.get("/v1/files")).json()["data"] == []


async def test_a_large_file_comes_back_byte_for_byte(client):
    content = lines(*({**TASK, "slug": str(number), "args": {"text": "x" * 2000}} for number in range(2500)))
    file = await client.files.create(file=content, purpose="fine-tune")
    assert (await client.files.content(file.id)).read() == content
