"""What a process says of itself, in one line."""

from __future__ import annotations

from dataclasses import replace

from wire.loaded import LABELS, Loaded

TRAINER = Loaded(
    version="1.2",
    architecture="Qwen3ForCausalLM",
    num_parameters=134_515_008,
    dtype="bfloat16",
    device="cuda:0 (NVIDIA H200)",
    kernel="flex",
    context_length=8192,
    lora_rank=16,
    lora_alpha=32,
    lora_targets=["q_proj", "v_proj"],
    tokens_per_s=1850.4,
    tokens_per_s_by="measured on a short pass",
)


def test_a_trainer_is_described_in_one_line():
    assert TRAINER.sentence() == (
        "Qwen3ForCausalLM, 135 M parameters, bfloat16 on cuda:0 (NVIDIA H200), flex attention, context of 8192 tokens; "
        "LoRA of rank 16, alpha 32 on q_proj, v_proj; about 1.85 k tokens/s trained (measured on a short pass); "
        "Headway 1.2"
    )


def test_several_ranks_are_said_with_their_devices():
    ranks = replace(TRAINER, ranks=4, device="4 GPUs (NVIDIA H200)")
    assert "bfloat16 on 4 GPUs (NVIDIA H200)" in ranks.sentence()
    assert ranks.to_json()["ranks"] == 4


def test_the_products_of_a_cpu_are_said():
    of_cpu = replace(TRAINER, dtype="float32", device="cpu", threads=2, products="bf16")
    assert "float32 on cpu, 2 threads, products in bf16, flex attention" in of_cpu.sentence()
    assert of_cpu.labels()[LABELS.index("products")] == "bf16"


def test_what_is_not_known_is_left_out():
    assert Loaded(version="1.2", engine="vLLM 0.32").sentence() == "vLLM 0.32, Headway 1.2"
    assert Loaded(version="1.2").to_json() == {"version": "1.2"}


def test_rows_of_other_versions_are_read():
    assert Loaded.read(TRAINER.to_json()) == TRAINER
    assert Loaded.read({"slots": 4, "of another version": 1}) == Loaded(version="unknown", slots=4)
    assert len(TRAINER.labels()) == len(LABELS)
