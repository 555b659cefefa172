"""One step of TRL's own GRPO trainer, on rollouts that were recorded beforehand."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch
from datasets import Dataset
from peft import set_peft_model_state_dict
from safetensors.torch import load_file
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from tests.unit.trainer.tiny import MODEL, VOCAB, BatchEngine, tiny_model
from wire.trajectories import Batch, Trajectory


class Replaying(GRPOTrainer):
    """Takes the logprobs that came with the rollouts for the old policy's, as it would those of an earlier step."""

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        scored = super()._generate_and_score_completions(inputs)
        return {**scored, "old_per_token_logps": scored["sampling_per_token_logps"]}


class GradientsBeforeTheStep(TrainerCallback):
    """What the optimizer is about to see."""

    def __init__(self) -> None:
        self.found: dict[str, torch.Tensor] = {}

    def on_pre_optimizer_step(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        named = ((name.replace(".default.", "."), p.grad) for name, p in model.named_parameters())
        self.found = {name: gradient.clone() for name, gradient in named if gradient is not None}


def gradients_of_trl(
    engine: BatchEngine, batch: Batch, options: Mapping[str, Any], folder: Path
) -> dict[str, torch.Tensor]:
    """Of one training step of TRL's, from the adapter that the engine holds, on the batch's rollouts."""
    adapter = saved_adapter(engine, folder)
    config = peft.LoraConfig.from_pretrained(adapter)
    config.inference_mode = False
    capture, num_groups = GradientsBeforeTheStep(), len(batch.trajectories) // batch.group_size
    trainer = Replaying(
        model=tiny_model(),
        peft_config=config,
        reward_funcs=lambda recorded_reward, **_: recorded_reward,
        rollout_func=lambda prompts, _: replayed(prompts, batch),
        train_dataset=Dataset.from_dict({"prompt": [str(group) for group in range(num_groups)]}),
        processing_class=tiny_tokenizer(),
        callbacks=[capture],
        args=trl_config(folder, num_generations=batch.group_size, **options),
    )
    set_peft_model_state_dict(trainer.model, load_file(adapter / "adapter_model.safetensors"))
    trainer.train()
    return capture.found


def trl_config(folder: Path, **options: Any) -> GRPOConfig:
    return GRPOConfig(
        output_dir=str(folder / "trl"),
        max_steps=1,
        max_grad_norm=0.0,
        gradient_checkpointing=False,
        use_bias_correction_kl=False,  # GRPO's own penalty; its default weighs it by r_t (arXiv:2512.02556)
        use_cpu=True,
        bf16=False,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **options,
    )


def replayed(prompts: list[str], batch: Batch) -> dict[str, list[Any]]:
    """The recorded rollouts of each group that TRL asks for, in the order in which it asks."""
    asked, found = dict.fromkeys(prompts, 0), []
    for prompt in prompts:
        found.append(batch.trajectories[int(prompt) * batch.group_size + asked[prompt]])
        asked[prompt] += 1
    rows = [as_one_sequence(trajectory) for trajectory in found]
    recorded = {"recorded_reward": [trajectory.reward for trajectory in found]}
    return {key: [row[key] for row in rows] for key in rows[0]} | recorded


def as_one_sequence(trajectory: Trajectory) -> dict[str, list[Any]]:
    first, last = trajectory.turns[0], trajectory.turns[-1]
    ids = [*last.prompt_ids.tolist(), *last.output_ids.tolist()]
    mask, logprobs = [0] * len(ids), [0.0] * len(ids)
    for turn in trajectory.turns:
        span = slice(len(turn.prompt_ids), len(turn.prompt_ids) + len(turn.output_ids))
        mask[span], logprobs[span] = [1] * len(turn.output_ids), turn.sampling_logprobs.tolist()
    start = len(first.prompt_ids)
    return {
        "prompt_ids": ids[:start],
        "completion_ids": ids[start:],
        "logprobs": logprobs[start:],
        "env_mask": mask[start:],
    }


def saved_adapter(engine: BatchEngine, folder: Path) -> Path:
    for part in ("adapter", "state"):
        (folder / part).mkdir()
    engine.snapshot(MODEL).write(folder / "adapter", folder / "state")
    return folder / "adapter"


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A word a token id. TRL decodes what it was given, and nothing depends on the text."""
    vocabulary = models.WordLevel({str(i): i for i in range(VOCAB)}, unk_token="0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(vocabulary), unk_token="0", eos_token="1", pad_token="2")
