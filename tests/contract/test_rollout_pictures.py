"""Pictures of rollouts: sent by themselves, named by imported lines, exported with them, and shown to those who may."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from store.blob_stores.file import FileBlobStore
from tests.contract.conftest import Team
from tests.contract.test_export import bring
from tests.contract.test_pages import HTML, signed_in

SEEN_AS_IMG = {"Accept": "image/avif,image/webp,*/*"}


def png(width: int = 400, height: int = 300, colour: str = "teal") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(buffer, "PNG")
    return buffer.getvalue()


async def send(team: Team, data: bytes) -> dict[str, Any]:
    reply = await team.http.post("/v2/pictures", content=data)
    assert reply.status_code == 200, reply.text
    return reply.json()


def line(*pictures: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A rollout of one turn, whose prompt has three placeholders a picture, one behind the other."""
    ids = [5, *[9] * (3 * len(pictures)), 6]
    media = [
        {"start": 1 + 3 * at, "num_tokens": 3, **{name: one[name] for name in ("name", "width", "height")}}
        for at, one in enumerate(pictures)
    ]
    turn = {"prompt_token_ids": ids, "prompt_media": media, "output_token_ids": [7], "output_logprobs": [-0.5]}
    return {"trace_id": str(uuid.uuid4()), "reward": 1.0, "turns": [{**turn, **changes}]}


async def test_a_picture_is_kept_under_the_name_of_what_was_made_of_it(team: Team):
    taken = await send(team, png())
    name = hashlib.sha256(png()).hexdigest()
    assert taken == {"name": name, "width": 400, "height": 300, "location": f"sha256:{name}"}
    jpeg = io.BytesIO()
    Image.new("RGB", (8, 6)).save(jpeg, "JPEG")
    assert (await send(team, jpeg.getvalue()))["width"] == 8
    for data, status in ((b"", 422), (b"<svg/>", 422), (png()[:60], 422), (b"x" * (20 * 2**20 + 1), 413)):
        reply = await team.http.post("/v2/pictures", content=data)
        assert reply.status_code == status, reply.text


async def test_lines_name_pictures_that_the_team_has(team: Team, other_team: Team):
    first, second = await send(team, png()), await send(team, png(8, 8))
    assert (await bring(team, line(first, second)))["imported"] == 1
    refusals = [
        (line({**first, "width": 401}), "says 401×300 pixels"),
        (line({**first, "name": "0" * 64}), "no picture sha256:0000"),
        (line({**first, "name": "../../x"}), "prompt_media"),
        (line(first, prompt_token_ids=[5, 9, 9]), "has tokens 1 to 4 of 3"),
        (line(first, prompt_token_ids=[5, 9, 8, 9, 6]), "not all the same placeholder"),
        (line(first, first, prompt_media=[line(first)["turns"][0]["prompt_media"][0]] * 2), "behind 4"),
    ]
    done = await bring(team, *(one for one, _ in refusals))
    assert done["num_refused"] == len(refusals)
    for refusal, (_, sentence) in zip(done["refused"], refusals, strict=True):
        assert sentence in refusal["detail"]
    assert "no picture" in (await bring(other_team, line(first)))["refused"][0]["detail"]


@pytest.fixture
async def seen(team: Team) -> tuple[str, str]:
    """A rollout, and the name of its picture."""
    taken = await send(team, png())
    row = line(taken)
    assert (await bring(team, row))["imported"] == 1
    return row["trace_id"], taken["name"]


async def members(team: Team, **query: str) -> dict[str, bytes]:
    """Files of a tar that is exported."""
    reply = await team.http.get("/v2/traces/export", params={"pictures": "files", **query})
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/x-tar")
    with tarfile.open(fileobj=io.BytesIO(reply.content)) as file:
        found = {member.name: file.extractfile(member) for member in file}
    return {name: member.read() for name, member in found.items() if member is not None}


async def test_what_one_team_exports_with_its_pictures_another_team_imports(team: Team, other_team: Team):
    first, second = await send(team, png()), await send(team, png(8, 8))
    await bring(team, line(first, second), line(first), line())
    files = await members(team)
    assert sorted(files) == sorted(
        [*(f"pictures/{one['name']}.png" for one in (first, second)), "rollouts-000001.jsonl"]
    )
    refused = await bring(other_team, files["rollouts-000001.jsonl"])
    assert (refused["imported"], refused["num_refused"]) == (1, 2)
    for name, data in files.items():
        if name.endswith(".png"):
            assert (await send(other_team, data))["name"] in name
    assert (await bring(other_team, files["rollouts-000001.jsonl"]))["imported"] == 2
    again = await members(other_team)
    for data in (files, again):
        rows = {row["trace_id"]: row["turns"] for row in map(json.loads, data["rollouts-000001.jsonl"].splitlines())}
        data["rollouts-000001.jsonl"] = json.dumps(rows, sort_keys=True).encode()
    assert again == files


async def test_an_export_says_what_becomes_of_pictures(seen: tuple[str, str], team: Team):
    for name in ("headway", "trl"):
        reply = await team.http.get("/v2/traces/export", params={"format": name})
        assert reply.status_code == 422, name
        assert "pictures=files" in reply.json()["detail"]
    reply = await team.http.get("/v2/traces/export", params={"format": "trl", "pictures": "files"})
    assert "no place for pictures" in reply.json()["detail"]
    reply = await team.http.get("/v2/traces/export", params={"pictures": "none"})
    assert json.loads(reply.content)["turns"][0]["prompt_media"][0]["name"] == seen[1]
    for query in ({"format": "trl", "pictures": "none"}, {"format": "parquet"}, {"status": "running"}):
        assert (await team.http.get("/v2/traces/export", params=query)).status_code == 200, query


async def test_an_export_names_a_picture_that_was_lost(team: Team, blob_folder: Path):
    taken = await send(team, data := png(31, 17))
    await bring(team, line(taken))
    blobs = FileBlobStore(blob_folder)
    blobs.remove_older([one for one in blobs.stored() if one.name == taken["name"]], 0.0)
    for query in ({"pictures": "files"}, {"format": "parquet"}):
        reply = await team.http.get("/v2/traces/export", params=query)
        assert reply.status_code == 410, reply.text
        assert f"picture {taken['name']}" in reply.json()["detail"]
        assert "/" not in reply.json()["detail"], "where it was is nobody's business"
    assert (await team.http.get("/v2/traces/export", params={"pictures": "none"})).status_code == 200
    await send(team, data)
    assert (await members(team))[f"pictures/{taken['name']}.png"] == data


async def test_a_picture_of_a_rollout_is_a_png_and_nothing_else(seen: tuple[str, str], team: Team, origin: str):
    trace, name = seen
    async with signed_in(origin, team.key) as browser:
        whole = await browser.get(f"/trace/{trace}/pictures/{name}", headers=SEEN_AS_IMG)
        small = await browser.get(f"/trace/{trace}/pictures/{name}?size=160", headers=SEEN_AS_IMG)
    assert whole.content == png()
    assert Image.open(io.BytesIO(small.content)).size == (160, 120)
    for reply in (whole, small, await team.http.get(f"/v2/traces/{trace}/pictures/{name}")):
        assert reply.headers["content-type"] == "image/png"
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert reply.headers["content-security-policy"].startswith("sandbox; default-src 'none'; ")
        assert reply.headers["cache-control"] == "private, max-age=86400, immutable"


async def test_nobody_sees_a_picture_of_a_rollout_that_is_not_theirs(
    seen: tuple[str, str], team: Team, other_team: Team, origin: str
):
    trace, name = seen
    other = line()
    await bring(team, other)
    await send(other_team, png())  # the same bytes are the other team's too, and yet not this rollout's
    paths = [f"/trace/{trace}/pictures/{name}", f"/trace/{trace}/pictures/{'0' * 64}", f"/trace/x/pictures/{name}"]
    async with signed_in(origin, other_team.key) as browser:
        assert [(await browser.get(path)).status_code for path in paths] == [404] * 3
    async with signed_in(origin, team.key) as browser:
        bad = [*paths[1:], f"/trace/{other['trace_id']}/pictures/{name}", f"/trace/{trace}/pictures/%00"]
        assert [(await browser.get(path)).status_code for path in bad] == [404] * 4
        sizes = [(await browser.get(f"{paths[0]}?size={size}")).status_code for size in ("1", "-320", "x", "99999999")]
        assert sizes == [422] * 4
    async with httpx.AsyncClient(base_url=origin, headers=HTML, trust_env=False, verify=False) as browser:
        reply = await browser.get(paths[0])
    assert (reply.status_code, reply.headers["location"].partition("?")[0]) == (303, "/login")
    assert (await other_team.http.get(f"/v2/traces/{trace}/pictures/{name}")).status_code == 404


def asked(picture: dict[str, Any], x: int) -> str:
    """The request of a turn whose answer clicks on the picture, as JSON."""
    part = {"type": "picture", **{name: picture[name] for name in ("name", "width", "height")}}
    call = {"function": {"name": "computer", "arguments": {"action": "click", "coordinate": [x, 20]}}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "<b>Buy</b> it"}, part]}]
    return json.dumps({"messages": messages, "reply": {"role": "assistant", "content": "", "tool_calls": [call]}})


async def rollout_with_picture(team: Team, data: bytes, x: int = 200) -> str:
    """The id of a rollout of one turn, whose answer clicks on the picture."""
    picture = await send(team, data)
    row = line(picture, served_at="2026-01-02T03:04:05Z", request=asked(picture, x))
    assert (await bring(team, row))["imported"] == 1
    return row["trace_id"]


async def test_a_page_shows_small_pictures_lazily_with_their_sizes_and_clicks(team: Team, origin: str):
    trace = await rollout_with_picture(team, png())
    path = f"/trace/{trace}/pictures/{hashlib.sha256(png()).hexdigest()}"
    async with signed_in(origin, team.key) as browser:
        page = (await browser.get(f"/trace/{trace}?open=2")).text
        shown = await browser.get(f"{path}?size=320", headers=SEEN_AS_IMG)
    assert shown.status_code == 200
    words = "Picture, 400 × 300 pixels, clicked at 200, 20"
    assert page.count('loading="lazy"') == 1
    assert f'<a href="{path}" aria-label="{words}: open in full size">' in page
    assert f'<img src="{path}?size=320" alt="{words}" loading="lazy"' in page
    assert 'width="320" height="240"' in page
    assert '<circle class="click" cx="200" cy="20"' in page
    assert "style=" not in page
    assert page.count(" picture of 400 × 300 pixels: 3 tokens ") == 1
    assert "6 tokens</summary>" not in page
    assert "Prompt as the model saw it: 5 tokens" in page


async def test_side_by_side_other_pictures_are_a_difference(team: Team, origin: str):
    ids = [await rollout_with_picture(team, png(colour=colour)) for colour in ("teal", "red", "red")]
    async with signed_in(origin, team.key) as browser:
        differ = (await browser.get(f"/traces/compare?a={ids[0]}&b={ids[1]}")).text
        same = (await browser.get(f"/traces/compare?a={ids[1]}&b={ids[2]}")).text
    assert differ.count("Other pictures than on the other side:") == 2
    assert f"/trace/{ids[0]}/pictures/" in differ
    assert "Both say the same" in same


async def headway(team: Team, *arguments: str) -> tuple[int, str]:
    """Exit status and what was printed, in a thread: the server is in this process, and logs to the same stdout."""
    where = ("--url", str(team.http.base_url), "--key", team.key)
    done: Any = await asyncio.to_thread(CliRunner().invoke, app, [*arguments, *where])
    return done.exit_code, done.output


@pytest.mark.parametrize("name", ["out.tar", "out.tar.gz", "out.parquet"])
@pytest.mark.parametrize("are_options_given", [True, False])
async def test_the_commands_take_pictures_from_one_team_to_another(
    team: Team, other_team: Team, tmp_path: Path, name: str, are_options_given: bool
):
    first, second = await send(team, png()), await send(team, png(8, 8))
    await bring(team, line(first, second), line(first), line())
    file, is_table = tmp_path / name, name.endswith(".parquet")
    how = ("--format", "parquet") if is_table else ("--pictures", "files")
    status, said = await headway(team, "export", "--out", str(file), *(how if are_options_given else ()))
    assert (status, "3 of 3 rollouts" in said) == (0, True), said
    status, said = await headway(other_team, "import", str(file))
    assert (status, "3 imported" in said) == (0, True), said
    assert {"pictures/" + one["name"] + ".png" for one in (first, second)} < (await members(other_team)).keys()


async def test_the_commands_say_what_is_to_be_said_about_pictures(team: Team, seen: tuple[str, str], tmp_path: Path):
    status, said = await headway(team, "export", "--out", str(tmp_path / "out.jsonl"))
    assert (status, "pictures=files" in said) == (1, True)
    with tarfile.open(tmp_path / "bad.tar", "w") as file:
        member = tarfile.TarInfo(f"pictures/{'0' * 64}.png")
        member.size = len(png())
        file.addfile(member, io.BytesIO(png()))
    status, said = await headway(team, "import", str(tmp_path / "bad.tar"))
    assert (status, "another one than its name says" in said) == (1, True), said
