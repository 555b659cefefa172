"""Requests that are all queued before the first result is read, and the same ones by one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tinker

from tests.e2e.box import Box
from tests.tinker.parity import service_of

SLOTS = 12


@pytest.fixture(scope="module")
def service(box: Box) -> Iterator[tinker.ServiceClient]:
    with service_of(box.env) as service:
        yield service


def datum(seed: int) -> tinker.Datum:
    random = np.random.default_rng(seed)
    tokens = random.integers(3, 15, SLOTS)
    inputs = {"target_tokens": np.roll(tokens, -1), "weights": random.random(SLOTS).astype(np.float32)}
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(tokens.tolist()), loss_fn_inputs=inputs)


def new_run(service: tinker.ServiceClient, name: str) -> Any:
    return service.create_lora_training_client(
        base_model="tiny-arith", rank=8, seed=11, user_metadata={"name": name}
    ).result()


def calls(training: Any) -> Iterator[Any]:
    """Futures of two steps, each over a batch of its own, a save between them, and one behind."""
    adam = tinker.AdamParams(learning_rate=1e-2, grad_clip_norm=0.5)
    yield training.forward_backward([datum(1), datum(2)], "cross_entropy")
    yield training.forward_backward([datum(3)], "cross_entropy")
    yield training.optim_step(adam)
    yield training.save_state("between")
    yield training.forward_backward([datum(4), datum(5)], "cross_entropy")
    yield training.optim_step(adam)
    yield training.save_state("last")
    yield training.forward([datum(6)], "cross_entropy")


def figures(result: Any) -> Any:
    """What of a result depends on the arithmetic alone."""
    outputs = [out["logprobs"].data for out in getattr(result, "loss_fn_outputs", ())]
    metrics = getattr(result, "metrics", None) or {}
    kept = ("loss:sum", "grad_norm", "update_norm")
    return [np.asarray(data, np.float32).tobytes() for data in outputs], {k: metrics[k] for k in kept if k in metrics}


def saved_weights(box: Box, name: str) -> dict[int, bytes]:
    """The adapter's file of each node that has one, by step."""
    model = box.call("GET", f"/v2/models/resolve?model={name}")["id"]
    nodes = {node["id"]: node["step"] for node in box.call("GET", f"/v2/models/{model}/checkpoints")}
    files = box.data_dir.rglob("adapter_model.safetensors")
    found = {path: nodes.get(_dashed(path.parent.parent.name)) for path in files}
    return {step: path.read_bytes() for path, step in found.items() if step is not None}


def _dashed(name: str) -> str:
    return f"{name[:8]}-{name[8:12]}-{name[12:16]}-{name[16:20]}-{name[20:]}" if len(name) == 32 else name


def test_pipelined_calls_give_the_bits_of_the_same_calls_one_by_one(box: Box, service: tinker.ServiceClient):
    ahead = [future.result() for future in list(calls(new_run(service, "sent-ahead")))]
    one_by_one = [future.result() for future in calls(new_run(service, "one-by-one"))]
    assert [figures(result) for result in ahead] == [figures(result) for result in one_by_one]
    assert figures(ahead[0])[1], "the loss is among what is compared"
    weights = saved_weights(box, "sent-ahead")
    assert {1, 2} <= set(weights)
    assert weights == saved_weights(box, "one-by-one")
    assert weights[1] != weights[2]


def test_what_is_wrong_with_a_batch_is_the_user_s_to_mend_and_the_run_goes_on(service: tinker.ServiceClient):
    training = new_run(service, "goes-on")
    wrong = tinker.Datum(
        model_input=tinker.ModelInput.from_ints([5, 6]), loss_fn_inputs={"target_tokens": np.array([6, 10**6])}
    )
    failing = training.forward_backward([wrong], "cross_entropy")
    passing = training.forward_backward([datum(1)], "cross_entropy")
    with pytest.raises(tinker.RequestFailedError, match="outside the vocabulary") as failed:
        failing.result()
    assert failed.value.category == "user"
    assert np.isfinite(passing.result().metrics["loss:sum"])
