"""The process of `server.uploads.upload_parser`: uploads one by one, until the server's end of the socket closes."""

from __future__ import annotations

import gc
import sys
import traceback
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from typing import Any

from server.uploads.json_size import UPLOADS
from wire.errors import HeadwayError, InvalidRequest

_STDIN = 0


def main() -> None:
    """Serve the server that started this process."""
    connection = Connection(_STDIN)
    gc.disable()  # what is parsed has no cycles to look for
    while True:
        try:
            work, args, kwargs = connection.recv()
            answer = _answer(work, connection.recv_bytes(), args, kwargs)
            connection.send_bytes(answer)
        except (EOFError, ConnectionError):
            return
        del answer
        gc.collect()
        gc.freeze()  # what is left are modules, which need not be looked through after every upload


def _answer(work: Any, data: bytes, args: Any, kwargs: Any) -> memoryview:
    """Pickled: (None, the result), or (the code of a refusal, its sentence)."""
    try:
        UPLOADS.check(data)
        return ForkingPickler.dumps((None, work(data, *args, **kwargs)))
    except HeadwayError as error:
        return ForkingPickler.dumps((error.code, error.message))
    except RecursionError:
        return ForkingPickler.dumps((InvalidRequest.code, "the upload is nested too deeply to be read"))
    except MemoryError:
        raise  # the server starts another process
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        return ForkingPickler.dumps((HeadwayError.code, f"the upload could not be read ({type(error).__name__})"))


if __name__ == "__main__":
    main()
