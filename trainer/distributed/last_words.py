"""Why a rank failed, in one sentence: in the file that the agent which started it names, and reads. No torch here."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_VARIABLE = "TORCHELASTIC_ERROR_FILE"


def leave_last_words(error: Exception, environment: Mapping[str, str] = os.environ) -> None:
    """Before this process ends with the error. Does nothing where nobody has asked for them, or the disk is full: the
    log has the reason, too."""
    if not environment.get(_VARIABLE):
        return
    path = Path(environment[_VARIABLE])
    sentence = (str(error).splitlines() or [type(error).__name__])[0]
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_text(json.dumps({"message": sentence, "timestamp": int(time.time())}))


def last_words(path: Path) -> str | None:
    """What a rank left there, if it came to that."""
    try:
        return json.loads(path.read_text())["message"]
    except (OSError, ValueError):
        return None
