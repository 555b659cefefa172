"""A checkpoint of a model that the HUD SDK trains, trained further by the Tinker SDK and given to others.

Run as a program, with the path of the checkpoint and a folder; prints one JSON object. It imports nothing of ours.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import numpy as np
import tinker
from click.testing import CliRunner
from tinker.cli.__main__ import main_cli

warnings.simplefilter("ignore")

TOKENS = [5, 6, 7, 8, 9, 10]


def main(path: str, folder: str) -> None:
    service = tinker.ServiceClient()
    rest = service.create_rest_client()
    training = _settled(service.create_training_client_from_state_with_optimizer(path, user_metadata={"slug": "mixed"}))
    inputs = {"target_tokens": np.array([*TOKENS[1:], 11], np.int64), "weights": np.ones(len(TOKENS), np.float32)}
    datum = tinker.Datum(model_input=tinker.ModelInput.from_ints(TOKENS), loss_fn_inputs=inputs)
    before = training.forward_backward([datum], "cross_entropy").result().metrics["loss:sum"]
    training.optim_step(tinker.AdamParams(learning_rate=1e-2)).result()
    state = training.save_state("after", ttl_seconds=3600).result().path
    sampled = training.save_weights_for_sampler("after").result().path
    after = training.forward([datum], "cross_entropy").result().metrics["loss:sum"]
    rest.publish_checkpoint_from_tinker_path(sampled).result()
    copied = rest.copy_weights(state, destination_project_id="p").result()
    info = rest.get_weights_info_by_tinker_path(path).result()
    fetched = CliRunner().invoke(main_cli, ["--format", "json", "checkpoint", "download", state, "--output", folder])
    assert fetched.exit_code == 0, (fetched.output, fetched.exception)
    listed = [one.tinker_path for one in rest.list_checkpoints(training.model_id).result().checkpoints]
    shown = {"state": state, "sampled": sampled, "copied": copied, "listed": listed, "base": info.base_model}
    json.dump({**shown, "before": before, "after": after, "run": training.model_id}, sys.stdout)


def _settled(value: Any) -> Any:
    return value.result() if hasattr(value, "result") else value


if __name__ == "__main__":
    main(*sys.argv[1:])
