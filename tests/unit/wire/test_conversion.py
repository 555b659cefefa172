from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.trainer.tiny import rollout, trajectory, turn
from wire.conversion import to_datums
from wire.datums import Datum
from wire.trajectories import Batch


def whole(datum: Datum) -> list[int]:
    """The sequence that was sampled, its last token included."""
    return [*datum.model_input.ids.tolist(), int(datum.targets[-1])]


def test_turns_that_extend_one_another_become_one_datum() -> None:
    (datum,) = to_datums(Batch([trajectory(turn([1, 2], [3], [-0.1]), turn([1, 2, 3, 4], [5, 6], [-0.2, -0.3]))]))
    assert whole(datum) == [1, 2, 3, 4, 5, 6]
    assert (datum.positions + 1).tolist() == [2, 4, 5]
    assert datum.sampling_logprobs.tolist() == np.array([-0.1, -0.2, -0.3], np.float32).tolist()


def test_a_prompt_that_adds_nothing_still_continues_the_datum() -> None:
    (datum,) = to_datums(Batch([trajectory(turn([1], [2]), turn([1, 2], [3]))]))
    assert (whole(datum), (datum.positions + 1).tolist()) == ([1, 2, 3], [1, 2])


def test_an_edited_history_begins_a_new_datum() -> None:
    datums = to_datums(Batch([trajectory(turn([1, 2], [3]), turn([1, 9, 3], [5]), turn([1, 9, 3, 5], [6]))]))
    assert [whole(d) for d in datums] == [[1, 2, 3], [1, 9, 3, 5, 6]]
    assert [d.origin.trajectory_index for d in datums] == [0, 0]


def test_a_truncated_output_begins_a_new_datum() -> None:
    datums = to_datums(Batch([trajectory(turn([1, 2], [3, 4]), turn([1, 2, 3], [5]))]))
    assert [whole(d) for d in datums] == [[1, 2, 3, 4], [1, 2, 3, 5]]


def test_an_edited_output_begins_a_new_datum() -> None:
    datums = to_datums(Batch([trajectory(turn([1, 2], [3, 4]), turn([1, 2, 3, 9, 5], [6]))]))
    assert [whole(d) for d in datums] == [[1, 2, 3, 4], [1, 2, 3, 9, 5, 6]]


def test_values_align_with_the_position_that_predicts() -> None:
    (datum,) = to_datums(Batch([trajectory(turn([1, 2], [3], [-0.5]), turn([1, 2, 3, 4], [5], [-0.25]), reward=0.75)]))
    assert datum.aligned(np.array([-1.0, -2.0])).tolist() == [0, -1, 0, -2]
    assert datum.aligned(datum.sampling_logprobs).tolist() == [0, -0.5, 0, -0.25]
    assert datum.aligned(np.ones(2)).tolist() == [0, 1, 0, 1]
    assert (datum.origin.trajectory_index, datum.origin.reward) == (0, 0.75)


@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(0, 5))
def test_every_sampled_token_is_an_action_exactly_once(seed: int, num_turns: int, edited: int) -> None:
    rng = np.random.default_rng(seed)
    history = rollout(rng, [1, 2, 3], num_turns, 1.0, edit_history_at=edited)
    datums = to_datums(Batch([history]))
    actions = [whole(d)[i + 1] for d in datums for i in d.positions]
    assert actions == [int(i) for t in history.turns for i in t.output_ids]
    assert sum(d.aligned(np.ones(d.num_scored)).sum() for d in datums) == len(actions)
    assert len(datums) == (2 if 0 < edited < num_turns else 1)
