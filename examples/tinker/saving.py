"""What a loop leaves behind when it ends."""

from __future__ import annotations

import tinker


def save_final(training: tinker.TrainingClient) -> None:
    """The state to train on from, and the weights that the gateway answers with under the run's name."""
    state = training.save_state("final")
    weights = training.save_weights_for_sampler("final")
    print(state.result().path)
    print(weights.result().path)
