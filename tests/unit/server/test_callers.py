"""What a key that does not open something is answered."""

from __future__ import annotations

import uuid

import pytest

from server.principals.callers import Caller
from wire.errors import Forbidden


def test_a_refusal_names_every_scope_that_would_do():
    caller = Caller(uuid.uuid4(), uuid.uuid4(), "reds", "viewer", frozenset({"read"}), None)
    with pytest.raises(
        Forbidden, match=r"scopes: read\) may not train or change models or sample: that needs the scope 'train' or 's"
    ):
        caller.require("train", "sample")
    with pytest.raises(Forbidden, match=r"needs the scope 'admin', which these roles have: admin; an operator \('head"):
        caller.require("admin")
    caller.require("train", "read")
