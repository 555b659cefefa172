from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load_file

from tests.e2e.box import Box
from tests.e2e.rollouts import chat, greedy, group, step, worst_disagreement

PROMPTS = ("12+30=?", "7+8=?")


def checkpoint_files(box: Box, model_id: str, checkpoint_id: str) -> dict[str, str]:
    """SHA-256 of each file of a checkpoint, by its path."""
    folder = box.data_dir / "checkpoints" / model_id.replace("-", "") / checkpoint_id.replace("-", "")
    files = list(folder.rglob("*.safetensors"))
    assert len(files) == 2
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def fixed_batch(box: Box) -> list[dict]:
    """Rollouts of the base: the same for whoever asks."""
    return [item for i, prompt in enumerate(PROMPTS) for item in group(box, "tiny-arith", prompt, seed=100 + i)]


def train_alone(box: Box, name: str, batch: list[dict], steps: int = 3) -> list[dict[str, str]]:
    model_id = box.fork(name)
    done = [step(box, model_id, batch, group_size=4) for _ in range(steps)]
    return [checkpoint_files(box, model_id, s["checkpoint_id"]) for s in done]


def test_sampler_and_trainer_agree_before_and_after_every_promotion(box: Box):
    model_id = box.fork("agree")
    taken: dict[str, tuple[list[int], list[float]]] = {}
    for i in range(10):
        inputs = [item for p in PROMPTS for item in group(box, "agree", p, seed=i)]
        assert worst_disagreement(box, model_id, inputs) < 1e-4
        checkpoint_id = step(box, model_id, inputs, group_size=4)["checkpoint_id"]
        taken[checkpoint_id] = greedy(box, "agree")
    assert len({json.dumps(t) for t in taken.values()}) > 5, "the policy hardly moved, so this test shows nothing"
    inputs = [item for p in PROMPTS for item in group(box, "agree", p, seed=11)]
    assert worst_disagreement(box, model_id, inputs) < 1e-4

    first = next(iter(taken))
    box.call("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": first})
    ids, logprobs = greedy(box, "agree")
    assert ids == taken[first][0]
    assert logprobs == pytest.approx(taken[first][1], abs=1e-5)
    inputs = [item for p in PROMPTS for item in group(box, "agree", p, seed=12)]
    assert worst_disagreement(box, model_id, inputs) < 1e-4, "the trainer follows the rollback"


def test_every_answer_names_its_checkpoint_and_a_pin_is_obeyed(box: Box):
    model_id = box.fork("pins")
    assert chat(box, "pins")["checkpoint"] is None
    base_answer = greedy(box, "pins")
    batch = fixed_batch(box)
    first = step(box, model_id, batch, group_size=4)
    first_answer = greedy(box, "pins")
    second = step(box, model_id, batch, group_size=4)
    assert chat(box, "pins")["checkpoint"]["id"] == second["checkpoint_id"]
    pinned = chat(box, "pins", checkpoint=first["checkpoint_id"], temperature=0.0)
    assert pinned["checkpoint"]["id"] == first["checkpoint_id"]
    assert greedy(box, "pins", checkpoint=first["checkpoint_id"])[1] == pytest.approx(first_answer[1], abs=1e-5)
    box.call("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": None})
    assert chat(box, "pins")["checkpoint"] is None
    assert greedy(box, "pins")[1] == pytest.approx(base_answer[1], abs=1e-5)


def test_a_rollback_point_is_extended_with_its_own_optimizer_state(box: Box):
    """Steps a, b; then back to a and the same step again: the same bits as b, moments included."""
    model_id = box.fork("rollback")
    batch = fixed_batch(box)
    a = step(box, model_id, batch, group_size=4)
    b = step(box, model_id, batch, group_size=4)
    box.call("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": a["checkpoint_id"]})
    again = step(box, model_id, batch, group_size=4)
    assert again["step"] == b["step"] == 2
    assert again["checkpoint_id"] != b["checkpoint_id"]
    assert checkpoint_files(box, model_id, again["checkpoint_id"]) == checkpoint_files(
        box, model_id, b["checkpoint_id"]
    )
    tree = {c["id"]: c for c in box.call("GET", f"/v2/models/{model_id}/checkpoints")}
    assert tree[again["checkpoint_id"]]["prev_model_checkpoint_id"] == a["checkpoint_id"]
    assert [c["id"] for c in tree.values() if c["is_active"]] == [again["checkpoint_id"]]
    assert len({c["name"] for c in tree.values()}) == 3


def test_gradients_not_yet_applied_are_dropped_by_a_rollback(box: Box):
    model_id = box.fork("dropped")
    batch = fixed_batch(box)
    first = step(box, model_id, batch, group_size=4)
    box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": batch, "group_size": 4})
    box.call("PUT", f"/v2/models/{model_id}/head", {"checkpoint_id": first["checkpoint_id"]})
    with pytest.raises(AssertionError, match="409.*call forward-backward first"):
        box.call("POST", f"/v1/models/{model_id}/train/optim-step", {"learning_rate": 1e-3})


def test_a_fork_of_a_trained_model_starts_at_its_head_and_goes_its_own_way(box: Box):
    source_id = box.fork("source")
    batch = fixed_batch(box)
    step(box, source_id, batch, group_size=4)
    fork_id = box.fork("branch", source_id)
    root = box.call("GET", f"/v2/models/{fork_id}/checkpoints")
    assert [(c["is_active"], c["prev_model_checkpoint_id"]) for c in root] == [(True, None)]
    assert greedy(box, "branch")[1] == pytest.approx(greedy(box, "source")[1], abs=1e-6)

    source_next = step(box, source_id, batch, group_size=4)
    fork_next = step(box, fork_id, batch, group_size=4)
    same = checkpoint_files(box, source_id, source_next["checkpoint_id"])
    assert checkpoint_files(box, fork_id, fork_next["checkpoint_id"]) == same, "its optimizer state came along"

    before = greedy(box, "source")
    step(box, fork_id, list(reversed(batch)), group_size=4)
    assert greedy(box, "source")[1] == pytest.approx(before[1], abs=1e-6)
    assert greedy(box, "branch")[1] != pytest.approx(before[1], abs=1e-4)


def test_two_models_training_at_the_same_time_do_not_mix(box: Box):
    batch = fixed_batch(box)
    other = [{**item, "reward": -item["reward"]} for item in batch]
    alone = [train_alone(box, "alone-a", batch), train_alone(box, "alone-b", other)]
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(lambda job: train_alone(box, *job), [("both-a", batch), ("both-b", other)]))
    assert together == alone
    assert alone[0] != alone[1]


def test_the_custom_loss_path_gives_the_gradients_of_the_built_in_loss(box: Box):
    """Weights r·A through forward and backward make the same first step as importance_sampling."""
    import math

    batch = fixed_batch(box)
    built_in, custom = box.fork("built-in"), box.fork("custom")
    expected = step(box, built_in, batch, group_size=4)
    forward = box.call("POST", f"/v1/models/{custom}/train/forward", {"inputs": batch, "group_size": 4})
    assert [d["traj_idx"] for d in forward["data"]] == list(range(8))
    assert [d["group_idx"] for d in forward["data"]] == [0, 0, 0, 0, 1, 1, 1, 1]
    weights = [
        [
            m * math.exp(p - q) * (datum["reward"] - 1.5)
            for p, q, m in zip(datum["logprobs"], datum["sampling_logprobs"], datum["mask"], strict=True)
        ]
        for datum in forward["data"]
    ]
    body = {"forward_id": forward["forward_id"], "weights": weights, "metrics": {"mine": 2.0}}
    reply = box.call("POST", f"/v1/models/{custom}/train/backward", body)
    assert reply["metrics"]["mine"] == 2.0
    with pytest.raises(AssertionError, match="4(09|10)"):
        box.call("POST", f"/v1/models/{custom}/train/backward", body)
    step_of_custom = box.call("POST", f"/v1/models/{custom}/train/optim-step", {"learning_rate": 1e-3})
    gradients = [_mean_gradient(box, m, s) for m, s in ((built_in, expected), (custom, step_of_custom))]
    assert abs(gradients[0] - gradients[1]).max() < 1e-5 * abs(gradients[0]).max()


def test_a_forward_from_before_the_weights_moved_is_refused(box: Box):
    model_id = box.fork("stale-forward")
    batch = fixed_batch(box)
    forward = box.call("POST", f"/v1/models/{model_id}/train/forward", {"inputs": batch})
    step(box, model_id, batch, group_size=4)
    weights = [[0.0] * len(d["logprobs"]) for d in forward["data"]]
    with pytest.raises(AssertionError, match="410.*weights.*moved"):
        box.call(
            "POST",
            f"/v1/models/{model_id}/train/backward",
            {"forward_id": forward["forward_id"], "weights": weights},
        )


def test_a_batch_without_spread_makes_a_step_that_changes_nothing(box: Box):
    model_id = box.fork("no-spread")
    batch = [{**item, "reward": 0.7} for item in fixed_batch(box)]
    before = step(box, model_id, fixed_batch(box), group_size=4)
    after = step(box, model_id, batch, group_size=4)
    assert after["step"] == 2
    files = [checkpoint_files(box, model_id, s["checkpoint_id"]) for s in (before, after)]
    assert files[0] == files[1]
    metrics = box.call("GET", f"/v2/models/{model_id}/checkpoints")[-1]["metrics"]
    assert metrics["no_gradient"] == 1.0
    assert metrics["groups_without_spread"] == 1.0


@pytest.mark.parametrize("is_identical", [True, False])
def test_racing_steps_do_not_commit_twice_from_one_accumulation(box: Box, is_identical: bool):
    """Those that are told of a step are told of the same one."""
    model_id = box.fork(f"race-{is_identical}")
    box.call("POST", f"/v1/models/{model_id}/train/forward-backward", {"inputs": fixed_batch(box), "group_size": 4})

    def try_step(index: int) -> str | None:
        body = {"learning_rate": 1e-3 if is_identical else 1e-3 * (1 + index)}
        try:
            return box.call("POST", f"/v1/models/{model_id}/train/optim-step", body)["checkpoint_id"]
        except AssertionError as refused:
            assert "409" in str(refused)
            return None

    with ThreadPoolExecutor(4) as pool:
        made = [checkpoint_id for checkpoint_id in pool.map(try_step, range(4)) if checkpoint_id]
    assert len(made) == (4 if is_identical else 1)
    assert len(set(made)) == 1
    assert len(box.call("GET", f"/v2/models/{model_id}/checkpoints")) == 1


def _mean_gradient(box: Box, model_id: str, step: Any) -> npt.NDArray[np.float32]:
    """AdamW's first moment after one step: a tenth of the gradient. Weights would say less, since the first step moves
    each of them by the learning rate, whatever the size of its gradient: rounding decides where that is nearly zero."""
    folder = Path(model_id.replace("-", "")) / step["checkpoint_id"].replace("-", "")
    return load_file(box.data_dir / "checkpoints" / folder / "state" / "state.safetensors")["exp_avg"]
