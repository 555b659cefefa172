"""Our protobuf messages are the installed SDK's: the same fields under the same numbers, the same bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from google.protobuf import json_format
from tinker.proto import tinker_public_pb2 as theirs

from server.protocols.tinker.messages import tinker_pb2 as ours

MESSAGES = sorted(ours.DESCRIPTOR.message_types_by_name)


def fields(descriptor: Any) -> dict[str, Any]:
    """By name: number, type, whether repeated, and of messages and maps what is in them."""
    return {
        field.name: (
            field.number,
            field.type,
            field.is_repeated,
            field.message_type and (field.message_type.name, fields(field.message_type)),
            field.enum_type and {value.name: value.number for value in field.enum_type.values},
            field.containing_oneof and field.containing_oneof.name,
        )
        for field in descriptor.fields
    }


def test_every_message_of_the_sdk_has_its_twin():
    assert set(theirs.DESCRIPTOR.message_types_by_name) == set(MESSAGES)


@pytest.mark.parametrize("name", MESSAGES)
def test_fields_have_the_numbers_and_types_of_the_sdk(name: str):
    assert fields(ours.DESCRIPTOR.message_types_by_name[name]) == fields(theirs.DESCRIPTOR.message_types_by_name[name])


def filled(module: Any) -> list[Any]:
    """A request and a result with every kind of field."""
    request = module.ForwardBackwardRequest(model_id="s:train:0", seq_id=7, loss_fn="ppo", forward_only=True)
    request.loss_fn_config["clip_low_threshold"] = 0.8
    request.loss_fn_config_v2["loss_id"].text = "x"
    datum = request.data.add()
    datum.model_input.add().encoded_text.tokens = np.arange(4, dtype=np.int32).tobytes()
    datum.model_input.add().image.format = "png"
    weights = datum.loss_fn_inputs["weights"]
    weights.dtype = module.DTYPE_FLOAT32
    weights.sparse_csr.values = np.ones(2, np.float32).tobytes()
    weights.sparse_csr.crow_indices = np.array([0, 2], np.int64).tobytes()
    weights.shape.extend([1, 3])
    result = module.ForwardBackwardOutput(loss_fn_output_type="ArrayRecord")
    result.metrics["loss:sum"] = float("nan")
    logprobs = result.loss_fn_outputs.add(num_datums=1).fields["logprobs"]
    logprobs.data, logprobs.dtype = np.ones(3, np.float32).tobytes(), module.DTYPE_FLOAT32
    logprobs.offsets = np.array([0, 12], np.int64).tobytes()
    sampled = module.SampleResponse(prompt_cache_hit_tokens=3)
    sampled.sequences.add(stop_reason=module.STOP_REASON_LENGTH, tokens=b"1234", logprobs=b"")
    params = module.SamplingParams(max_tokens=3, seed=2**63, top_p=0.5)
    params.stop_strs.values.append("\n")
    return [request, result, sampled, params]


def test_bytes_are_read_the_same_in_both_directions():
    for mine, sent in zip(filled(ours), filled(theirs), strict=True):
        assert mine.SerializeToString(deterministic=True) == sent.SerializeToString(deterministic=True)
        read = type(mine).FromString(sent.SerializeToString())
        assert json_format.MessageToDict(read) == json_format.MessageToDict(mine)
        assert json_format.MessageToDict(type(sent).FromString(mine.SerializeToString())) == json_format.MessageToDict(
            sent
        )
