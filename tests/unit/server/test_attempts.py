from __future__ import annotations

import pytest

from server.auth.attempts import Attempts, TooManyAttempts


def test_ten_wrong_keys_a_minute_close_the_door_to_their_address_alone():
    now = 0.0
    attempts = Attempts(lambda: now)
    for _ in range(10):
        attempts.check("a")
        attempts.failed("a")
    with pytest.raises(TooManyAttempts, match="try again in 61 s") as refused:
        attempts.check("a")
    assert refused.value.retry_after_s == 61
    attempts.check("b")
    now = 60.0
    attempts.check("a")
