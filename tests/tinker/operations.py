"""Every operation of a Tinker SDK, of whichever version PYTHONPATH names, against the server of TINKER_BASE_URL.

Run as a program; prints one JSON object: what each operation came to, `ok` or an error. It imports nothing of ours.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import tinker
import torch

warnings.simplefilter("ignore")

BASE = "tiny-arith"
_MOST_S = 40
TOKENS = [5, 6, 7, 8, 9, 10]


def settled(value: Any) -> Any:
    """The client itself, where newer SDKs return a future of it."""
    return value.result() if hasattr(value, "result") else value


def datum(**inputs: Any) -> tinker.Datum:
    inputs = {"target_tokens": np.array([*TOKENS[1:], 11], np.int64), **inputs}
    return tinker.Datum(model_input=tinker.ModelInput.from_ints(TOKENS), loss_fn_inputs=inputs)


def weighted() -> tinker.Datum:
    return datum(weights=np.ones(len(TOKENS), np.float32))


def sampled(advantage: float) -> tinker.Datum:
    """The first half is a prompt."""
    half = len(TOKENS) // 2
    advantages = np.array([0.0] * half + [advantage] * half, np.float32)
    return datum(logprobs=np.where(advantages != 0, -2.0, 0.0).astype(np.float32), advantages=advantages)


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"no answer within {_MOST_S} s")


class Operations:
    """What each operation came to. One that fails does not stop those that do not need it."""

    def __init__(self) -> None:
        self.outcomes: dict[str, str] = {}

    def do(self, name: str, operation: Callable[[], Any]) -> Any:
        started = time.monotonic()
        try:
            signal.alarm(_MOST_S)
            value = operation()
            signal.alarm(0)
        except BaseException as error:
            signal.alarm(0)
            self.outcomes[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
            return None
        self.outcomes[name] = "ok"
        print(f"{name}: {time.monotonic() - started:.2f} s", file=sys.stderr)
        return value


def main() -> None:
    signal.signal(signal.SIGALRM, _too_long)
    operations = Operations()
    do = operations.do
    service = tinker.ServiceClient()
    rest = service.create_rest_client()
    do("get_server_capabilities", lambda: _has_base(service.get_server_capabilities()))
    training = do("create_lora_training_client", lambda: settled(_create(service)))
    do("get_info", lambda: _expect(training.get_info().model_data.model_name, BASE))
    do("get_tokenizer", lambda: training.get_tokenizer().encode("1+2=?"))
    _passes(do, training)
    do("optim_step", lambda: training.optim_step(tinker.AdamParams(learning_rate=1e-3)).result())
    clipped = {"learning_rate": 1e-3, "grad_clip_norm": 0.5}
    do("optim_step with clipping", lambda: _pass_and_step(training, clipped))
    kept = do("save_state", lambda: training.save_state("kept").result().path)
    exported = do("save_weights_for_sampler", lambda: training.save_weights_for_sampler("kept").result().path)
    _resuming(do, service, kept)
    _listing(do, rest, training.model_id, kept, exported)
    _sampling(do, service, training, rest, exported)
    if hasattr(training, "save_weights_external"):
        do("save_weights_external", lambda: training.save_weights_external("out").result().path)
    do("delete_checkpoint", lambda: rest.delete_checkpoint_from_tinker_path(kept).result())
    print(json.dumps({"version": tinker.__version__, "operations": operations.outcomes}))


def _create(service: Any) -> Any:
    metadata = {"purpose": "operations"}
    return service.create_lora_training_client(base_model=BASE, rank=8, seed=3, user_metadata=metadata)


def _passes(do: Any, training: Any) -> None:
    do("forward", lambda: _aligned(training.forward([weighted()], "cross_entropy").result(), [len(TOKENS)]))
    do("forward_backward cross_entropy", lambda: _aligned(_both(training, "cross_entropy", weighted()), [len(TOKENS)]))
    many = datum(target_tokens=torch.tensor([[1, 2]] * len(TOKENS)), weights=torch.full((len(TOKENS), 2), 0.5))
    do("forward_backward (N, K)", lambda: _aligned(_both(training, "cross_entropy", many), [len(TOKENS), 2]))
    sparse = torch.zeros((len(TOKENS), 40), dtype=torch.int64)
    sparse[:, 3] = 7
    halves = torch.where(sparse != 0, 0.5, 0.0)
    mixed = [datum(target_tokens=sparse, weights=halves), weighted()]
    do("forward_backward sparse", lambda: _aligned(_both(training, "cross_entropy", *mixed), [len(TOKENS), 40]))
    for loss in ("importance_sampling", "ppo", "cispo"):
        do(f"forward_backward {loss}", lambda loss=loss: _both(training, loss, sampled(1.0), sampled(-1.0)))
    config = {"beta": 0.05}
    dro = training.forward_backward
    do("forward_backward dro", lambda: dro([sampled(1.0)], "dro", loss_fn_config=config).result())
    do("forward_backward_custom", lambda: training.forward_backward_custom([weighted()], _custom).result())


def _custom(_data: Any, logprobs: Any) -> Any:
    loss = sum((one**2).sum() for one in logprobs)
    return loss, {"mine:mean": float(loss)}


def _both(training: Any, loss: str, *data: Any) -> Any:
    return training.forward_backward(list(data), loss).result()


def _aligned(output: Any, shape: list[int]) -> None:
    assert np.isfinite(output.metrics["loss:sum"]), output.metrics
    logprobs = output.loss_fn_outputs[0]["logprobs"]
    _expect(list(logprobs.shape), shape)
    assert np.all(np.asarray(logprobs.data) < 0), logprobs.data


def _pass_and_step(training: Any, adam: dict[str, float]) -> None:
    passed = training.forward_backward([weighted()], "cross_entropy")
    stepped = training.optim_step(tinker.AdamParams(**adam))
    passed.result()
    stepped.result()


def _resuming(do: Any, service: Any, kept: str) -> None:
    def resumed(create: Any) -> None:
        training = settled(create(kept))
        before = training.forward([weighted()], "cross_entropy").result()
        _aligned(before, [len(TOKENS)])
        _pass_and_step(training, {"learning_rate": 1e-3})

    do("create_training_client_from_state", lambda: resumed(service.create_training_client_from_state))
    with_optimizer = getattr(service, "create_training_client_from_state_with_optimizer", None)
    if with_optimizer is not None:
        do("create_training_client_from_state_with_optimizer", lambda: resumed(with_optimizer))


def _listing(do: Any, rest: Any, run: str, kept: str, exported: str) -> None:
    do("list_training_runs", lambda: _one_of(run, rest.list_training_runs().result().training_runs, "training_run_id"))
    do("get_training_run", lambda: _expect(rest.get_training_run(run).result().base_model, BASE))
    paths = [kept, exported]
    do("list_checkpoints", lambda: _all_of(paths, rest.list_checkpoints(run).result().checkpoints))
    do("list_user_checkpoints", lambda: _all_of(paths, rest.list_user_checkpoints().result().checkpoints))
    do("weights_info", lambda: _expect(rest.get_weights_info_by_tinker_path(kept).result().lora_rank, 8))
    do("publish", lambda: rest.publish_checkpoint_from_tinker_path(kept).result())
    do("unpublish", lambda: rest.unpublish_checkpoint_from_tinker_path(kept).result())
    do("set_ttl", lambda: rest.set_checkpoint_ttl_from_tinker_path(kept, 7200).result())
    sessions = rest.list_sessions
    do("list_sessions", lambda: _expect(bool(sessions().result().sessions), True))
    do("get_session", lambda: _one_of(run, rest.get_session(run.partition(":")[0]).result().training_run_ids, None))
    if hasattr(rest, "get_checkpoint_archive_url_from_tinker_path"):
        archive = rest.get_checkpoint_archive_url_from_tinker_path
        do("archive_url", lambda: _expect(archive(exported).result().url.startswith("http"), True))


def _sampling(do: Any, service: Any, training: Any, rest: Any, exported: str) -> None:
    prompt, params = tinker.ModelInput.from_ints(TOKENS), tinker.SamplingParams(max_tokens=4, seed=1)

    def sample(client: Any) -> None:
        for sequence in client.sample(prompt, 2, params).result().sequences:
            _expect(len(sequence.tokens), len(sequence.logprobs))

    own = do("save_weights_and_get_sampling_client", lambda: settled(training.save_weights_and_get_sampling_client()))
    do("sample", lambda: sample(own))
    do("create_sampling_client base", lambda: sample(settled(service.create_sampling_client(base_model=BASE))))
    path = {"model_path": exported}
    kept = do("create_sampling_client path", lambda: settled(service.create_sampling_client(**path)))
    do("compute_logprobs", lambda: _expect(len(kept.compute_logprobs(prompt).result()), len(TOKENS)))
    if hasattr(rest, "get_sampler"):
        do("get_sampler", lambda: _expect(rest.get_sampler(_id_of(kept)).result().base_model, BASE))


def _id_of(client: Any) -> str:
    return next(
        getattr(client, name) for name in ("_sampling_session_id", "sampling_session_id") if hasattr(client, name)
    )


def _has_base(capabilities: Any) -> None:
    _one_of(BASE, capabilities.supported_models, "model_name")


def _all_of(paths: list[str], checkpoints: Any) -> None:
    for path in paths:
        _one_of(path, checkpoints, "tinker_path")


def _one_of(wanted: str, found: Any, attribute: str | None) -> None:
    names = [item if attribute is None else getattr(item, attribute) for item in found]
    assert wanted in names, f"{wanted} is not among {names}"


def _expect(found: Any, wanted: Any) -> None:
    assert found == wanted, f"{found!r} and not {wanted!r}"


if __name__ == "__main__":
    main()
