"""Lines are what was asked for, and hold no secret, whoever writes them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from wire.logging import without_secrets

KEY = "hw_" + "aB3_" * 10 + "xyz"

_PROGRAM = f"""
import logging, structlog
from wire.logging import configure_logging
configure_logging("server", FORMAT)
with structlog.contextvars.bound_contextvars(request_id="r-1"):
    structlog.get_logger("x").info("hello", url="postgresql://me:hunter2@db/x")
    logging.getLogger("library").warning("sent %s", "Authorization: Bearer abc.def")
    try:
        raise ValueError("the key {KEY} is bad")
    except ValueError:
        structlog.get_logger("x").exception("broke")
        logging.getLogger("library").exception("broke too")
"""


def lines(log_format: str) -> list[str]:
    program = _PROGRAM.replace("FORMAT", repr(log_format))
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stderr.splitlines()


def test_json_is_one_object_a_line_also_from_libraries():
    found = [json.loads(line) for line in lines("json")]
    assert [line["event"] for line in found] == ["hello", "sent Authorization: [secret]", "broke", "broke too"]
    assert all((line["plane"], line["request_id"]) == ("server", "r-1") for line in found)
    assert found[0]["url"] == "postgresql://[secret]@db/x"
    assert all("the key [secret] is bad" in line["exception"] for line in found[2:])


def test_text_holds_no_secret_either():
    text = "\n".join(lines("text"))
    assert "hello" in text
    assert "request_id=r-1" in text
    for secret in (KEY, "hunter2", "abc.def"):
        assert secret not in text


@pytest.mark.parametrize(
    "line", ["hw-base-0123456789abcdef0123456789abcdef0123", "hw_operation_queued", "http://a:80/"]
)
def test_names_that_look_like_keys_stay(line: str):
    assert without_secrets(None, "info", line) == line


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (f"the key {KEY}", "the key [secret]"),
        ("AUTHORIZATION: BEARER abc.def", "AUTHORIZATION: [secret]"),
        ("at s3://me:hunter2@host/x", "at s3://[secret]@host/x"),
    ],
)
def test_each_kind_of_secret_is_struck_out_by_itself(line: str, kept: str):
    assert without_secrets(None, "info", line) == kept
