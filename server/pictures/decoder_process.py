"""The process of `server.pictures.decoder`: one picture after the other, until the server's end of the socket closes.

A question is JSON and the picture's bytes, an answer JSON and the PNG's: nothing is unpickled on either side, for what
answers here has read strangers' bytes.
"""

from __future__ import annotations

import json
import resource
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from server.pictures.decoding import canonical
from wire.errors import HeadwayError, InvalidRequest, TooLarge
from wire.pictures import PictureLimits

_STDIN = 0
_MEMORY_BYTES = 1536 * 1024**2
"""Of addresses. 40 million pixels take 120 MB as RGB and 160 as RGBA, of which there are a few at once."""
_CPU_S = 10
"""Of one picture. The largest takes 3."""


def main() -> None:
    """Serve the server that started this process."""
    connection = Connection(_STDIN)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_AS, _MEMORY_BYTES)
    while True:
        try:
            asked = json.loads(connection.recv_bytes())
            data = connection.recv_bytes()
            _allow_cpu()
            said, png = _answer(asked, data)
            connection.send_bytes(json.dumps(said).encode())
            connection.send_bytes(png)
        except (EOFError, ConnectionError):
            return


def _answer(asked: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """The size and the PNG, or the code and the sentence of a refusal."""
    try:
        found = canonical(data, PictureLimits(**asked["limits"]), longest_side=asked["longest_side"])
        return {"width": found.width, "height": found.height}, found.png
    except HeadwayError as error:
        return _refusal(type(error), error.message), b""
    except MemoryError:
        return _refusal(TooLarge, "takes more memory to decode than there is for one; scale it down"), b""
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return _refusal(InvalidRequest, f"cannot be decoded ({type(error).__name__})"), b""


def _refusal(error: type[HeadwayError], message: str) -> dict[str, Any]:
    return {"code": error.code, "message": message}


def _allow_cpu() -> None:
    """So much more than was used by now: a limit is of the process, not of a picture."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + _CPU_S)


def _limit(which: int, value: int) -> None:
    """The soft limit; what a process may do to itself it must be able to do again."""
    _, hard = resource.getrlimit(which)
    resource.setrlimit(which, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


if __name__ == "__main__":
    main()
