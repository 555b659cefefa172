"""The frozen base model: loading it, and scoring packs under whichever session is bound."""

# T packed tokens, P predictions, D hidden size, V vocabulary

from __future__ import annotations

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainer.architectures import adapted_modules, refuse_unsupported, unembedding_weight
from trainer.attention import IMPLEMENTATION, register
from trainer.fingerprint import fingerprint
from trainer.logprobs import action_logprobs
from trainer.lora import LiveAdapter
from trainer.packing import Pack
from trainer.self_check import check_against_stock
from trainer.session import Session
from wire.engine import BaseModelInfo, LoraConfig


class BaseModel:
    """A causal language model of transformers whose own weights never change.

    Takes the model over: its attention is replaced, its parameters are frozen, LoRA layers are put in.
    Raises UnsupportedArchitecture where packed and plain computation would differ.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        refuse_unsupported(model.config)
        register()
        model.set_attn_implementation(IMPLEMENTATION)
        self._model = model.eval().requires_grad_(False)
        self._lora_dtype = torch.promote_types(model.dtype, torch.float32)
        # A copy only where the base is below float32: a bf16 head costs four times the error of a float32 one.
        self._unembedding_VD = unembedding_weight(model).to(self._lora_dtype)
        self._targets = adapted_modules(model)
        self._adapters: dict[tuple[int, int], LiveAdapter] = {}
        self._active: LiveAdapter | None = None
        self.info = _describe(model, vocab_size=len(self._unembedding_VD))
        check_against_stock(model, self.logprobs, self.device)

    @property
    def device(self) -> torch.device:
        """Where packs must lie."""
        return self._model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of LoRA weights, gradients, moments and logprobs."""
        return self._lora_dtype

    @property
    def name(self) -> str:
        """Where the weights came from, for the adapter's configuration."""
        return self._model.name_or_path or ""

    @property
    def served_dtype(self) -> torch.dtype:
        """Of the frozen weights, and of the adapters that samplers load."""
        return self._model.dtype

    def adapter(self, lora: LoraConfig) -> LiveAdapter:
        """The live adapter of this shape, made on first use; models of one shape share it."""
        shape = (lora.rank, lora.alpha)
        if shape not in self._adapters:
            self._adapters[shape] = LiveAdapter(self._model, lora, self._targets, self._lora_dtype)
            self._active = None
        return self._adapters[shape]

    def bind(self, session: Session) -> LiveAdapter:
        """Let the session's weights compute from now on."""
        adapter = self.adapter(session.lora)
        if self._active is not adapter:
            adapter.activate()
            self._active = adapter
        adapter.bind(session.weights)
        return adapter

    def logprobs(self, pack: Pack) -> tuple[torch.Tensor, torch.Tensor]:
        """logprobs_P of the pack's predictions (gradient reaches the bound LoRA weights) and entropies_P, in nats."""
        # The backbone, not the language model on top: that one would make logits of every token.
        hidden_1TD = self._model.base_model(
            input_ids=pack.input_ids_T[None],
            position_ids=pack.position_ids_T[None],
            attention_mask=None,
            use_cache=False,
            packed_layout=pack.layout,
        ).last_hidden_state
        return action_logprobs(hidden_1TD[0], pack.rows_P, pack.targets_P, self._unembedding_VD)


def load_base_model(
    name_or_path: str, *, device: str = "cpu", dtype: torch.dtype | None = None, revision: str | None = None
) -> BaseModel:
    """Load safetensors weights from a folder or the hub; code that comes with them is never run.

    dtype: float32 on the CPU and bfloat16 elsewhere, if not given. Raises OSError for weights that are not there,
    UnsupportedArchitecture for those that would be computed wrongly.
    """
    model = AutoModelForCausalLM.from_pretrained(
        name_or_path,
        revision=revision,
        dtype=dtype or (torch.float32 if device == "cpu" else torch.bfloat16),
        use_safetensors=True,
        trust_remote_code=False,
    )
    torch.nn.Module.to(model, torch.device(device))
    return BaseModel(model)


def _describe(model: PreTrainedModel, vocab_size: int) -> BaseModelInfo:
    return BaseModelInfo(
        vocab_size=vocab_size,
        context_length=int(model.config.max_position_embeddings),
        architecture=type(model).__name__,
        dtype=str(model.dtype).removeprefix("torch."),
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        fingerprint=fingerprint(model),
    )
