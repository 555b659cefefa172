"""The training engine: torch, LoRA, packing, losses, checkpoints. It knows no database."""
