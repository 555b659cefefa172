from __future__ import annotations

import time

from tests.e2e.box import Box
from tests.e2e.rollouts import greedy, step
from tests.e2e.test_training import checkpoint_files, fixed_batch


def test_a_stopped_service_goes_on_where_it_was(own_box: Box):
    own_box.start()
    key = own_box.env["HUD_API_KEY"]
    model_id = own_box.fork("kept")
    batch = fixed_batch(own_box)
    step(own_box, model_id, batch, group_size=4)
    before = greedy(own_box, "kept")
    own_box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})
    assert own_box.stop() == 0

    own_box.start()
    assert own_box.env["HUD_API_KEY"] == key or own_box.call("GET", "/v2/models")
    ids, logprobs = greedy(own_box, "kept")
    assert ids == before[0]
    assert max(abs(a - b) for a, b in zip(logprobs, before[1], strict=True)) < 1e-6
    stepped = own_box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})
    assert stepped["step"] == 2, "the gradient from before the stop was replayed"


def test_a_killed_trainer_costs_neither_gradients_nor_bits(own_box: Box):
    own_box.start()
    batch = fixed_batch(own_box)
    undisturbed = own_box.fork("undisturbed")
    expected = [step(own_box, undisturbed, batch, group_size=4) for _ in range(2)]

    killed = own_box.fork("killed")
    step(own_box, killed, batch, group_size=4)
    own_box.call("POST", f"/v1/models/{killed}/train/forward-backward", {"inputs": batch, "group_size": 4})
    own_box.kill("trainer")
    stepped = own_box.call("POST", f"/v1/models/{killed}/train/optim-step", {"learning_rate": 1e-3})
    assert checkpoint_files(own_box, killed, stepped["checkpoint_id"]) == checkpoint_files(
        own_box, undisturbed, expected[1]["checkpoint_id"]
    )


def test_a_killed_sampler_comes_back_with_every_head(own_box: Box):
    own_box.start()
    model_id = own_box.fork("served")
    step(own_box, model_id, fixed_batch(own_box), group_size=4)
    before = greedy(own_box, "served")
    own_box.kill("sampler")
    deadline = time.monotonic() + 90
    while True:
        try:
            assert greedy(own_box, "served")[0] == before[0]
            return
        except AssertionError as refused:
            assert "503" in str(refused), refused
            assert time.monotonic() < deadline, "the sampler did not come back"
            time.sleep(0.5)
