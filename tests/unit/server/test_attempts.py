from __future__ import annotations

import pytest

from server.auth.attempts import Attempts, TooManyAttempts


def test_the_eleventh_wrong_key_of_an_address_in_a_minute_is_one_too_many():
    now = 0.0
    attempts = Attempts(lambda: now)
    for _ in range(10):
        attempts.failed("a")
    with pytest.raises(TooManyAttempts, match="try again in 61 s") as refused:
        attempts.failed("a")
    assert refused.value.retry_after_s == 61
    attempts.failed("b")
    now = 60.0
    attempts.failed("a")
