"""What was sampled, kept and read again, is what the SDK reads of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tinker.proto.response_conv import deserialize_sample_response

from server.protocols.tinker.sampling.results import as_json, as_protobuf
from server.sampling_sessions.calls import TargetMatrix
from server.sampling_sessions.results import Alternatives, Sampled, SampledSequence

INT, FLOAT = np.int32, np.float32
TOPS = Alternatives(np.array([[0, 0], [5, 3]], INT), np.array([[-99999, -99999], [-0.5, -1.5]], FLOAT))
SPARSE = TargetMatrix(np.array([7, 8, 9], INT), (2, 6), np.array([0, 1, 3], INT), np.array([4, 0, 5], INT))
DENSE = TargetMatrix(np.array([7, -1, 8, 9], INT), (2, 2))


def sequence(*tokens: int, reason: str = "stop", top: bool = True) -> SampledSequence:
    logprobs = -np.arange(1, len(tokens) + 1, dtype=FLOAT)
    shape = (len(tokens), 2)
    tops = Alternatives(np.full(shape, 3, INT), np.full(shape, -2, FLOAT)) if top else None
    return SampledSequence(np.array(tokens, INT), logprobs, reason, tops)


CASES = {
    "bare": Sampled([sequence(1, 2, top=False), sequence(reason="length", top=False)]),
    "all": Sampled(
        [sequence(1, 2, 3), sequence(4, reason="length")],
        np.array([np.nan, -0.25], FLOAT),
        TOPS,
        DENSE,
        np.array([-1, 0, -2, -3], FLOAT),
    ),
    "sparse": Sampled([sequence(1, top=False)], None, None, SPARSE, np.array([-1, -2, -3], FLOAT)),
}


@pytest.mark.parametrize("sampled", CASES.values(), ids=CASES)
def test_the_sdk_reads_what_was_sampled(sampled: Sampled):
    kept = Sampled.decoded(sampled.encoded())
    read = deserialize_sample_response(as_protobuf(kept))
    for one, other in zip(read.sequences, sampled.sequences, strict=True):
        assert (one.tokens, one.logprobs or []) == (other.tokens_N.tolist(), other.logprobs_N.tolist())
        assert one.stop_reason == other.stop_reason
        assert (one.topk_logprobs_np is None) == (other.alternatives is None)
    assert read.sequences[0].topk_logprobs == (None if not sampled.sequences[0].alternatives else [[(3, -2.0)] * 2] * 3)
    expected = None if sampled.prompt_logprobs_P is None else [None, -0.25]
    assert read.prompt_logprobs == expected
    assert read.topk_prompt_logprobs == (
        None if sampled.prompt_alternatives is None else [None, [(5, -0.5), (3, -1.5)]]
    )
    if sampled.targets is not None and sampled.target_logprobs is not None:
        tensor = read.target_prompt_logprobs
        assert tensor is not None
        assert (tensor.shape, list(tensor.data)) == (list(sampled.targets.shape), sampled.target_logprobs.tolist())
        columns = sampled.targets.columns
        assert tensor.sparse_col_indices == (None if columns is None else columns.tolist())


def test_old_clients_read_json():
    reply = json.loads(as_json(CASES["all"]))
    assert reply["type"] == "sample"
    assert reply["sequences"][0]["tokens"] == [1, 2, 3]
    assert reply["sequences"][1]["stop_reason"] == "length"
    assert reply["prompt_logprobs"] == [None, -0.25]
    assert reply["topk_prompt_logprobs"] == [None, [[5, -0.5], [3, -1.5]]]


def test_rows_of_sparse_targets_are_filled_up_and_answered_in_their_order():
    assert SPARSE.rows() == [[7, -1], [8, 9]]
    assert SPARSE.in_layout([[-1.0, None], [-2.0, -3.0]]).tolist() == [-1, -2, -3]
    assert DENSE.in_layout([[-1.0, None], [-2.0, -3.0]]).tolist() == [-1, 0, -2, -3]
