"""Gradient passes as the SDK sends them, in both forms, and what is refused of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tinker
import torch
from tinker.proto.request_conv import forward_backward_request_to_proto
from tinker.proto.response_conv import deserialize_forward_backward_output

from server.protocols.tinker.training.passes import json_forms, protobuf
from server.protocols.tinker.training.passes.datums import read_inputs, to_datums
from server.protocols.tinker.training.passes.sent import SentPass
from wire.datums import Datum
from wire.engine import BaseModelInfo
from wire.errors import InvalidRequest, TooLarge
from wire.extension import Media
from wire.picture_rule import PictureRule
from wire.pictures import Picture
from wire.prompt_chunks import to_sequence

INFO = BaseModelInfo(vocab_size=100, context_length=16, architecture="T", dtype="float32", num_parameters=1)
RL = {"logprobs": [-0.5, -0.25, 0.0], "advantages": [1.0, -1.0, 0.0]}


def datum(tokens: list[int] | None = None, **inputs: Any) -> tinker.Datum:
    tokens = [1, 2, 3] if tokens is None else tokens
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens), loss_fn_inputs=inputs)


def asked(*datums: tinker.Datum, loss_fn: Any = "cross_entropy", config: Any = None) -> Any:
    sent = tinker.types.ForwardBackwardInput(data=list(datums), loss_fn=loss_fn, loss_fn_config=config)
    return tinker.types.ForwardBackwardRequest(forward_backward_input=sent, model_id="s:train:0", seq_id=3)


def as_protobuf(request: Any) -> protobuf.ProtobufPass:
    return protobuf.parse_pass(forward_backward_request_to_proto(request).SerializeToString())


def as_json(request: Any) -> json_forms.JsonPass:
    """As SDKs before 0.25 wrote it."""
    sent = request.forward_backward_input

    def tensor(data: Any) -> dict[str, Any]:
        found = {"data": data.data, "dtype": data.dtype, "shape": data.shape}
        sparse = {"sparse_crow_indices": data.sparse_crow_indices, "sparse_col_indices": data.sparse_col_indices}
        return {**found, **{name: value for name, value in sparse.items() if value is not None}}

    data = [
        {
            "model_input": {"chunks": [chunk.model_dump(mode="json") for chunk in one.model_input.chunks]},
            "loss_fn_inputs": {name: tensor(value) for name, value in one.loss_fn_inputs.items()},
        }
        for one in sent.data
    ]
    inner = {"data": data, "loss_fn": sent.loss_fn, "loss_fn_config": sent.loss_fn_config}
    body = {"model_id": request.model_id, "seq_id": request.seq_id, "forward_backward_input": inner}
    return json_forms.parse_pass(json.dumps(body).encode(), 10_000, is_forward=False)


def datums_of(sent: SentPass, info: BaseModelInfo = INFO, most: int = 1000) -> list[Datum]:
    """Where each picture is of 32 × 16 pixels."""
    rule = None if info.pictures is None else PictureRule.from_json(info.pictures)
    prompts = read_inputs(sent, info)
    shown = [Picture("0" * 64, 32, 16)] * 10
    return to_datums(sent, [to_sequence(one.where, one.chunks, shown, rule) for one in prompts], info, most)


FORMS = pytest.mark.parametrize("parse", [as_protobuf, as_json], ids=["protobuf", "json"])


@FORMS
def test_a_datum_is_scored_at_every_position(parse):
    parsed = parse(asked(datum(target_tokens=[2, 3, 4], weights=[0.0, 1.0, -2.0])))
    assert (parsed.model_id, parsed.number, parsed.is_forward) == ("s:train:0", 3, False)
    (one,) = datums_of(parsed.read())
    assert one.model_input.ids.tolist() == [1, 2, 3]
    assert one.spans.tolist() == [[0, 3]]
    assert one.targets.tolist() == [2, 3, 4]
    assert one.weights.tolist() == [0.0, 1.0, -2.0]


@FORMS
def test_an_array_without_a_shape_is_a_vector(parse):
    targets = tinker.TensorData(data=[2, 3, 4], dtype="int64")
    assert targets.shape is None
    (one,) = datums_of(parse(asked(datum(target_tokens=targets))).read())
    assert one.targets.tolist() == [2, 3, 4]


@FORMS
def test_targets_of_one_call_may_be_one_or_many_and_dense_or_sparse(parse):
    matrix = torch.zeros((3, 9), dtype=torch.int64)
    matrix[0, 2], matrix[2, 0] = 7, 9
    weights = torch.zeros((3, 9))
    weights[2, 0] = 0.5
    sparse = datum(target_tokens=matrix, weights=weights)
    assert sparse.loss_fn_inputs["target_tokens"].sparse_crow_indices is not None
    dense = datum(target_tokens=torch.tensor([[1, 2], [3, 4], [5, 6]]), weights=torch.ones((3, 2)))
    single = datum(target_tokens=[2, 3, 4])
    one, two, three = datums_of(parse(asked(sparse, dense, single)).read())
    assert one.targets.tolist() == matrix.tolist()
    assert one.weights.tolist() == weights.tolist()
    assert two.targets.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert (three.targets.shape, three.weights.tolist()) == ((3,), [1.0, 1.0, 1.0])


@FORMS
def test_losses_that_compare_policies_get_what_was_sampled(parse):
    parsed = parse(asked(datum(target_tokens=[2, 3, 4], **RL), loss_fn="ppo", config={"clip_low_threshold": 0.5}))
    sent = parsed.read()
    assert (sent.loss_fn, dict(sent.config)) == ("ppo", {"clip_low_threshold": 0.5})
    (one,) = datums_of(sent)
    assert one.sampling_logprobs.tolist() == RL["logprobs"]
    assert one.advantages.tolist() == RL["advantages"]
    masked = datum(target_tokens=[2, 3, 4], sequence_ratio_mask=[0.0, 1.0, 1.0], **RL)
    (one,) = datums_of(parse(asked(masked, loss_fn="gspo")).read())
    assert one.in_ratio is not None
    assert one.in_ratio.tolist() == [False, True, True]


def test_both_forms_of_one_request_are_equal_and_others_are_not():
    request = asked(datum(target_tokens=[2, 3, 4], weights=[0.5, 1.0, 2.0]))
    digest = as_protobuf(request).read().digest("forward")
    assert as_protobuf(request).read().digest("forward") == digest
    assert as_protobuf(request).read().digest("forward_backward") != digest
    other = asked(datum(target_tokens=[2, 3, 4], weights=[0.5, 1.0, 2.5]))
    assert as_protobuf(other).read().digest("forward") != digest


REFUSED = [
    ([], "cross_entropy", "data is empty"),
    ([datum(weights=[1.0] * 3)], "cross_entropy", "no 'target_tokens'"),
    ([datum(target_tokens=[1, 2, 3])], "ppo", "no 'logprobs', which ppo needs"),
    ([datum(target_tokens=[1, 2, 3], **RL)], "cross_entropy", "'advantages', which cross_entropy does not know"),
    ([datum(target_tokens=[1, 2])], "cross_entropy", "has 2 positions, but the model input has 3"),
    ([datum(target_tokens=[1, 2, 100])], "cross_entropy", "holds 100, which is outside the vocabulary of 100"),
    ([datum([1, 2, -3], target_tokens=[1, 2, 3])], "cross_entropy", "its model input holds -3"),
    ([datum(list(range(17)), target_tokens=[1] * 17)], "cross_entropy", "more than the model's context of 16"),
    ([datum([], target_tokens=[])], "cross_entropy", "its model input is empty"),
    ([datum(target_tokens=[1, 2, 3], weights=[1.0, float("nan"), 1.0])], "cross_entropy", "not a finite number"),
    ([datum(target_tokens=[1, 2, 3], weights=[1.0, float("inf"), 1.0])], "cross_entropy", "not a finite number"),
    ([datum(target_tokens=torch.ones((3, 2), dtype=torch.int64), **RL)], "ppo", "which cross_entropy alone takes"),
    ([datum(target_tokens=torch.ones((3, 2), dtype=torch.int64), weights=torch.ones(3, 1))], "cross_entropy", "(3, 1)"),
    ([datum(target_tokens=torch.ones((3, 2, 2), dtype=torch.int64))], "cross_entropy", "has the shape (3, 2, 2)"),
]


@FORMS
@pytest.mark.parametrize(("datums", "loss_fn", "sentence"), REFUSED, ids=[sentence for _, _, sentence in REFUSED])
def test_what_is_wrong_with_a_datum_is_one_sentence(parse, datums, loss_fn, sentence):
    with pytest.raises(InvalidRequest) as refused:
        datums_of(parse(asked(*datums, loss_fn=loss_fn)).read())
    assert sentence in refused.value.message
    assert "\n" not in refused.value.message


def test_the_mask_that_the_cookbook_forgets_to_strip_is_left_out():
    one = datum(target_tokens=[1, 2, 3], mask=tinker.TensorData(data=[1.0] * 3, dtype="float32", shape=[3]), **RL)
    assert len(datums_of(as_protobuf(asked(one, loss_fn="ppo")).read())) == 1


RULE = PictureRule("patches", 90, 8, 2, 256, 65_536, 0, 3, False, "<|image_pad|>", "", "", "pillow")
SEEING = replace(INFO, pictures=RULE.to_json())
TEXT = tinker.types.EncodedTextChunk(tokens=[1, 2])


def image(data: bytes = b"png", expected: int | None = 2) -> tinker.types.ImageChunk:
    return tinker.types.ImageChunk(data=data, format="png", expected_tokens=expected)


def seen(*chunks: Any, **inputs: Any) -> tinker.Datum:
    model_input = tinker.ModelInput(chunks=list(chunks))
    return tinker.Datum(model_input=model_input, loss_fn_inputs=inputs or {"target_tokens": [5] * model_input.length})


@FORMS
def test_a_picture_has_a_position_for_each_of_its_tokens(parse):
    (one,) = datums_of(parse(asked(seen(TEXT, image(), TEXT))).read(), SEEING)
    assert one.model_input.ids.tolist() == [1, 2, 90, 90, 1, 2]
    assert one.model_input.media == (Media(2, 2, bytes(32), 32, 16),)
    assert one.spans.tolist() == [[0, 6]]
    assert one.targets.tolist() == [5] * 6


@FORMS
def test_a_picture_with_another_number_of_tokens_is_refused(parse):
    with pytest.raises(InvalidRequest, match="datum 1: chunk 1 expects 3 tokens of a picture of 32×16 pixels"):
        datums_of(parse(asked(seen(TEXT), seen(TEXT, image(expected=3)))).read(), SEEING)
    with pytest.raises(InvalidRequest, match="target_tokens has 2 positions, but the model input has 4 tokens"):
        datums_of(parse(asked(seen(TEXT, image(expected=None), target_tokens=[5, 5]))).read(), SEEING)


def test_a_pointer_is_a_picture_that_the_server_has():
    """In JSON alone: the SDK's protobuf has no such chunk."""
    pointer = tinker.types.ImageAssetPointerChunk(location="sha256:" + "0" * 64, format="png", expected_tokens=2)
    (one,) = datums_of(as_json(asked(seen(TEXT, pointer))).read(), SEEING)
    assert one.model_input.media == (Media(2, 2, bytes(32), 32, 16),)
    elsewhere = pointer.model_copy(update={"location": "https://example.com/a.png"})
    with pytest.raises(InvalidRequest, match="datum 0: chunk 1: location must be sha256:"):
        datums_of(as_json(asked(seen(TEXT, elsewhere))).read(), SEEING)


def test_passes_over_different_pictures_are_different_passes():
    """Although they have as many tokens."""

    def digests(parse: Any, *chunks: Any) -> bytes:
        return parse(asked(seen(*chunks, target_tokens=[5]))).read().digest("forward")

    for parse in (as_protobuf, as_json):
        sent = [[image(b"one")], [image(b"other")], [image(b"one", None)], [image(b"one"), image(b"one")]]
        assert len({digests(parse, TEXT, *chunks) for chunks in sent}) == 4
        assert digests(parse, image(b"one"), TEXT) != digests(parse, TEXT, image(b"one"))
        assert digests(parse, TEXT, image(b"one")) == digests(parse, TEXT, image(b"one"))


def test_a_pass_of_text_alone_keeps_its_digest():
    """A repetition finds what an older server logged."""
    digest = as_protobuf(asked(datum(target_tokens=[2, 3, 4]))).read().digest("forward")
    assert digest.hex() == "e137d9a22c1758ad1e439b981f15d87484d31f35399b2ec24f0d270154a29497"


def test_other_dimensions_and_other_media_are_refused_by_name():
    message = forward_backward_request_to_proto(asked(seen(TEXT, image())))
    message.data[0].model_input[1].image.override_dimensions.width = 7
    with pytest.raises(InvalidRequest, match="datum 0: chunk 1: override_dimensions of an image chunk is not"):
        datums_of(protobuf.parse_pass(message.SerializeToString()).read(), SEEING)
    message.data[0].model_input[1].dmel.dmel = b"sound"
    with pytest.raises(InvalidRequest, match="datum 0: chunk 1 has the type 'dmel'"):
        datums_of(protobuf.parse_pass(message.SerializeToString()).read(), SEEING)


def test_a_sparse_matrix_that_says_it_is_huge_is_never_written_out():
    huge = tinker.TensorData(
        data=[1], dtype="int64", shape=[3, 10**12], sparse_crow_indices=[0, 1, 1, 1], sparse_col_indices=[0]
    )
    with pytest.raises(TooLarge, match="more than the 1000"):
        datums_of(as_protobuf(asked(datum(target_tokens=huge))).read())


OF_ONE = {"data": [1.0, 1.0], "dtype": "float32", "shape": [2]}
SPARSE = {"data": [1.0], "sparse_crow_indices": [0, 1, 1], "sparse_col_indices": [0]}


@pytest.mark.parametrize(
    ("weights", "tokens", "sentence"),
    [
        ({**OF_ONE, "shape": [2.0]}, [1, 2], "weights: shape must be a list of integers"),
        ({**OF_ONE, "dtype": {}}, [1, 2], "weights has a type other than float32 and int64"),
        ({**OF_ONE, "sparse_col_indices": [0, 1]}, [1, 2], "weights: sparse_crow_indices must be a list of numbers"),
        ({**OF_ONE, "data": [], "shape": [2, 2**62]}, [1, 2], "weights has the shape"),
        ({**OF_ONE, "data": [], "shape": [-2]}, [1, 2], "weights has the shape"),
        ({**SPARSE, "shape": [2, 2**50]}, [1, 2], "weights has the shape"),
        (OF_ONE, [1.5, 2], "datum 0: tokens must be a list of integers"),
        (OF_ONE, [2**70, 2], "datum 0: tokens must be a list of integers"),
    ],
)
def test_json_that_contradicts_itself_is_refused_before_it_is_rounded_or_written_out(weights, tokens, sentence):
    inputs = {"target_tokens": {"data": [1, 2], "dtype": "int64"}, "weights": weights}
    one = {"model_input": {"chunks": [{"type": "encoded_text", "tokens": tokens}]}, "loss_fn_inputs": inputs}
    sent = {"data": [one], "loss_fn": "cross_entropy"}
    body = json.dumps({"model_id": "s:train:0", "seq_id": 1, "forward_backward_input": sent})
    with pytest.raises(InvalidRequest, match=sentence):
        datums_of(json_forms.parse_pass(body.encode(), 100, is_forward=False).read())


WRAPS = [0, 2**63 - 1, -5, 1]  # its differences are positive only in 64 bits


@pytest.mark.parametrize(
    ("crow", "col"),
    [([0, 1], [0]), ([0, 2, 1, 2], [0, 1]), ([0, 1, 2, 2], [0, 5]), ([0, 2, 2, 2], [1, 1]), (WRAPS, [0])],
)
def test_sparse_indices_that_contradict_one_another_are_refused(crow, col):
    odd = tinker.TensorData(
        data=[1] * len(col), dtype="int64", shape=[3, 2], sparse_crow_indices=crow, sparse_col_indices=col
    )
    with pytest.raises(InvalidRequest, match="is sparse"):
        datums_of(as_protobuf(asked(datum(target_tokens=odd))).read())


@pytest.mark.parametrize("content", [b"\xff\xff", b"nonsense"])
def test_what_is_no_message_is_refused(content):
    with pytest.raises(InvalidRequest):
        protobuf.parse_pass(content)
    with pytest.raises(InvalidRequest):
        json_forms.parse_pass(content, 10, is_forward=False)


LOGPROBS = [np.array([-1.5, -2.5], np.float32), np.array([[-1, -2], [-3, -4]], np.float32), np.zeros(3, np.float32)]


def test_a_result_reads_in_the_sdk_as_it_was():
    metrics = {"loss:sum": 1.25, "kl:mean": float("nan")}
    read = deserialize_forward_backward_output(protobuf.encode_output(LOGPROBS, metrics))
    assert read.loss_fn_output_type == "ArrayRecord"
    assert read.metrics["loss:sum"] == 1.25
    assert [out["logprobs"].shape for out in read.loss_fn_outputs] == [[2], [2, 2], [3]]
    for out, logprobs in zip(read.loss_fn_outputs, LOGPROBS, strict=True):
        assert np.array_equal(out["logprobs"].to_numpy().reshape(logprobs.shape), logprobs)


def test_a_result_in_json_is_the_same():
    read = json.loads(json_forms.encode_output(LOGPROBS, {"loss:sum": 1.25}))
    assert read["loss_fn_output_type"] == "ArrayRecord"
    assert read["loss_fn_outputs"][1]["logprobs"] == {"data": [-1, -2, -3, -4], "dtype": "float32", "shape": [2, 2]}


def test_a_million_tokens_are_read_in_numpy():
    many = datum(np.ones(10**6, np.int64).tolist(), target_tokens=np.ones(10**6, np.int64))
    large = BaseModelInfo(vocab_size=100, context_length=10**7, architecture="T", dtype="float32", num_parameters=1)
    sent: SentPass = as_protobuf(asked(many)).read()
    assert sent.datums[0].chunks[0].tokens.base is not None  # the message's own bytes
    assert datums_of(sent, large, 10**7)[0].num_tokens == 10**6
