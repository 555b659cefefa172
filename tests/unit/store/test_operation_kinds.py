from __future__ import annotations

import pytest

from store.operation_kinds import (
    ANSWERS_ONLY,
    BOUND_TO_HEAD,
    CONSUMERS,
    GRADIENTS,
    HANDLE_GIVERS,
    HANDLE_USERS,
    HEAD_MOVERS,
    KINDS,
    MODEL_CHANGERS,
    SERVED_CHANGERS,
    is_any,
    is_none,
)


def test_each_fact_lists_the_kinds_that_have_it() -> None:
    assert GRADIENTS == ("forward_backward", "backward")
    assert BOUND_TO_HEAD == ("forward", "optim_step", "unpromoted_step", "save_checkpoint")
    assert CONSUMERS == HEAD_MOVERS == ("optim_step", "unpromoted_step")
    assert SERVED_CHANGERS == ("optim_step", "save_checkpoint")
    assert (HANDLE_GIVERS, HANDLE_USERS) == (("forward",), ("backward",))
    assert ANSWERS_ONLY == ("forward",)
    assert MODEL_CHANGERS == ("forward_backward", "backward", "optim_step", "unpromoted_step")


def test_facts_of_one_kind_do_not_contradict_one_another() -> None:
    for kind in KINDS.values():
        assert not (kind.is_gradient and (kind.consumes_gradients or kind.moves_head)), kind.name
        assert not (kind.gives_handle and kind.changes_model), kind.name


@pytest.mark.parametrize(
    ("names", "any_of", "none_of"),
    [
        (("a",), "o.kind = 'a'", "o.kind <> 'a'"),
        (("a", "b"), "o.kind in ('a', 'b')", "not o.kind in ('a', 'b')"),
        ((), "false", "not false"),
    ],
)
def test_facts_become_sql(names: tuple[str, ...], any_of: str, none_of: str) -> None:
    assert is_any("o.kind", names) == any_of
    assert is_none("o.kind", names) == none_of
