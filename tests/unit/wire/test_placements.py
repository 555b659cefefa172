"""What a runner says of where it listens: servers call it, with a header of its making."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wire.placements import Registration

SAID = {"host": "h", "pid": 1, "slots": 1, "isolation": "none"}


@pytest.mark.parametrize("url", ["ws://10.0.0.1:7070", "wss://[fd00::1]:7070", "wss://runners.internal/behind/a/proxy"])
def test_a_url_of_tunnels_is_taken(url: str):
    assert Registration(**SAID, url=url, tunnel_token="t" * 32).url == url


@pytest.mark.parametrize(
    "url",
    [
        "http://h:1",
        "ws://",
        "ws://[",
        "ws://h:99999",
        "ws://h:0",
        "ws://u:p@h:1",
        "ws://h:1?a",
        "ws://h:1#a",
        "ws://h\n",
    ],
)
def test_what_is_no_url_of_tunnels_is_refused(url: str):
    with pytest.raises(ValidationError, match="a runner's url is ws://HOST:PORT"):
        Registration(**SAID, url=url, tunnel_token="t" * 32)


@pytest.mark.parametrize("token", ["t" * 31, "t" * 32 + "\r\nHost: another", "é" * 32, " " * 32])
def test_a_token_that_does_not_fit_into_a_header_is_refused(token: str):
    with pytest.raises(ValidationError):
        Registration(**SAID, url="ws://h:1", tunnel_token=token)
