"""Lines are what was asked for, and hold no secret, whoever writes them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from wire.process.logging import without_secrets

KEY = "hw_" + "aB3_" * 10 + "xyz"

_PROGRAM = f"""
import logging, structlog
from wire.process.logging import configure_logging
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
        (f"the key tml-{KEY}", "the key [secret]"),
        ("AUTHORIZATION: BEARER abc.def", "AUTHORIZATION: [secret]"),
        ("at s3://me:hunter2@host/x", "at s3://[secret]@host/x"),
    ],
)
def test_each_kind_of_secret_is_struck_out_by_itself(line: str, kept: str):
    assert without_secrets(None, "info", line) == kept


_LOST = """
import logging, sys, structlog
from wire.process.logging import configure_logging
FIRST
configure_logging("server", "json")
log = structlog.get_logger("x")
THEN
log.info("lost")
log.exception("lost", exc_info=ValueError("with a traceback"))
logging.getLogger("library").error("lost %d", "not a number")
logging.getLogger("library").exception("lost")
AFTER
print("went on")
"""


def after_a_failure(first: str = "", then: str = "", after: str = "") -> subprocess.CompletedProcess[str]:
    program = _LOST.replace("FIRST", first).replace("THEN", then).replace("AFTER", after)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)


UNWRITABLE = {
    "a full disk": {"first": "sys.stderr = open('/dev/full', 'w')"},
    "a pipe that nobody reads": {"first": "import os; r, w = os.pipe(); os.close(r); sys.stderr = os.fdopen(w, 'w')"},
    "a closed file": {"then": "sys.stderr.close()"},
    "no file at all": {"first": "sys.stderr = None"},
    "an encoding without the letters": {
        "first": "sys.stderr = open('/dev/null', 'w', encoding='ascii')",
        "then": "log = structlog.get_logger('x', name='\\ud800ä')",
    },
    "a value that does not render": {
        "then": "log = structlog.get_logger('x', value=type('T', (), {'__repr__': lambda self: 1 / 0})())"
    },
}


@pytest.mark.parametrize("cause", UNWRITABLE)
def test_a_line_that_cannot_be_written_fails_nothing(cause):
    done = after_a_failure(**UNWRITABLE[cause])
    assert done.stdout == "went on\n", done.stderr


def test_lines_that_were_lost_are_counted():
    planted = "logger = structlog.WriteLogger; good = logger.info; "
    planted += "logger.info = logger.error = logger.warning = lambda *_: 1 / 0"
    mend = "logger.warning = good; log.warning('after')"
    done = after_a_failure(then=planted, after=mend)
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [(line["event"], line.get("lines")) for line in events[-2:]] == [("log_lines_lost", 2), ("after", None)]


_FULL_PIPE = """
import os, sys, time
reading, writing = os.pipe()
os.set_blocking(writing, False)
try:
    while True:
        os.write(writing, b"x" * 4096)
except BlockingIOError:
    os.set_blocking(writing, True)
sys.stderr = os.fdopen(writing, "w")
"""


def test_a_pipe_that_is_full_is_waited_for_once_and_lines_go_on_when_it_is_read():
    then = "log.info('a' * 10_000); log.info('lost, too')"
    after = """
read = b""
os.set_blocking(reading, False)
while True:
    try:
        read += os.read(reading, 65536)
    except BlockingIOError:
        break
log.info("after", text="b" * 10_000)
print(os.read(reading, 65536).decode())
"""
    done = after_a_failure(first=_FULL_PIPE, then=then, after=after)
    *printed, last = done.stdout.splitlines()
    assert last == "went on", done.stderr
    lost, first = [json.loads(line) for line in printed if line]
    assert (lost["event"], lost["lines"]) == ("log_lines_lost", 4)
    assert (first["event"], len(first["text"])) == ("after", 10_000)


def test_a_line_that_was_torn_ends_before_the_next_one():
    room = "os.read(reading, 8192)"
    after = """
os.set_blocking(reading, False)
try:
    while os.read(reading, 65536): pass
except BlockingIOError:
    pass
log.info("after")
print(os.read(reading, 65536).decode())
"""
    done = after_a_failure(first=_FULL_PIPE + room, then="log.info('a' * 100_000)", after=after)
    lines = done.stdout.splitlines()
    assert [json.loads(line)["event"] for line in lines if line.startswith("{")] == ["log_lines_lost", "after"], lines
    assert lines[0] == ""


def test_a_process_is_named_on_the_lines_of_all_its_threads():
    program = (
        "import structlog, threading\n"
        "from wire.process.logging import configure_logging, name_process\n"
        "configure_logging('trainer', 'json')\n"
        "name_process(rank=3)\n"
        "thread = threading.Thread(target=lambda: structlog.get_logger('x').info('renewed'))\n"
        "thread.start()\n"
        "thread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    line = json.loads(done.stderr)
    assert (line["event"], line["plane"], line["rank"]) == ("renewed", "trainer", 3)
