"""What a base's files say that samplers with vLLM need of it, and what vLLM cannot do with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import structlog
from transformers import AutoConfig, PreTrainedTokenizerBase

from sampler.backends.base import SamplerInfo
from sampler.backends.vllm.command import served_tensor_parallel
from sampler.backends.vllm.parsers import ChatFormat
from sampler.backends.vllm.settings import VllmSettings
from sampler.backends.vllm.tensor_parallel import check_ranks
from sampler.chat.rendering import ChatRenderer
from wire.picture_rule import FAMILIES, PictureRule, rule_in

log = structlog.get_logger(__name__)


def ranks_of(settings: VllmSettings, folder: Path) -> int:
    """Over how many the server splits the base. Raises ValueError where it cannot, or is not ours to start."""
    if settings.url is not None:
        if settings.tensor_parallel > 1:
            raise ValueError(
                "--tensor-parallel is for a vLLM that this sampler starts, and --vllm-url names one that runs"
            )
        return 1
    ranks = served_tensor_parallel(settings)
    check_ranks(AutoConfig.from_pretrained(folder).get_text_config(), ranks)
    return ranks


def architecture_of(folder: Path) -> str | None:
    """The class of its model, as its config.json names it."""
    named: list[str] = AutoConfig.from_pretrained(folder).architectures or []
    return named[0] if named else None


def chat_format_of(folder: Path, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """What vLLM's parsers are chosen by."""
    model_type: str = AutoConfig.from_pretrained(folder).model_type
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    opening = ChatRenderer(tokenizer).generation_prompt({})
    return ChatFormat(template, opening, model_type, tokenizer.get_vocab())


def rule_of(folder: Path) -> PictureRule | None:
    """How pictures are read; None for a base that takes text alone, with a line in the log where it has a tower that is
    not served."""
    if AutoConfig.from_pretrained(folder).model_type not in FAMILIES:
        return None
    try:
        if (rule := rule_in(folder)) is None:
            raise ValueError("its files have no settings of an image processor")
        return rule
    except (OSError, ValueError) as error:
        log.warning("base_takes_text_alone", base=str(folder), reason=str(error))
        return None


def blindness(rule: PictureRule | None, device: str | None) -> str:
    """Why pictures are refused of a base that takes them; empty where they are not."""
    if rule is None or not rule.two_way or device != "cpu":
        return ""
    reason = (
        "this base's tokens of a picture attend to all of it, and vLLM's attention on a CPU lets them see earlier "
        "tokens only, which gives other answers: sample pictures with the local backend, or with vLLM on a GPU"
    )
    log.warning("pictures_refused", reason=reason)
    return reason


def info_of(
    folder: Path, tokenizer: PreTrainedTokenizerBase, models: list[dict[str, Any]], pictures: PictureRule | None
) -> SamplerInfo:
    """Facts of the base. models: as the server lists them. pictures: None for a base that is served as text."""
    config = AutoConfig.from_pretrained(folder).get_text_config()
    generation = folder / "generation_config.json"
    configured: Any = json.loads(generation.read_text()).get("eos_token_id") if generation.exists() else None
    eos_ids = configured if isinstance(configured, list) else [configured]
    own_eos_id: Any = tokenizer.eos_token_id
    known = {int(eos_id) for eos_id in (*eos_ids, own_eos_id) if eos_id is not None}
    context_length = int(models[0]["max_model_len"])
    return SamplerInfo(config.vocab_size, context_length, tuple(sorted(known)), constrains=True, pictures=pictures)
