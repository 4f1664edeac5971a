"""Reading a Janus checkpoint or adapters for one: every fault is one clear error."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from corl_cli.core.errors import CorlError
from corl_cli.models import lora, torchvision_guard

torchvision_guard.check()  # one that does not fit would break this import with a traceback

from transformers import (  # noqa: E402
    AutoTokenizer,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
)


def read(path: str | Path, attention: str) -> tuple[JanusForConditionalGeneration, JanusProcessor]:
    """The model at `path` in float32, its adapters attached where it has some, and its processor; CorlError."""
    try:
        base = lora.base_of(path)
        model, report = JanusForConditionalGeneration.from_pretrained(
            base, config=_config(base), dtype=torch.float32, attn_implementation=attention, output_loading_info=True
        )
        missing = {*report["missing_keys"], *report["mismatched_keys"]}
        if base != str(path):
            loaded = model.load_adapter(str(path), adapter_name=lora.NAME, is_trainable=True)
            missing |= {*loaded.missing_keys, *loaded.mismatched_keys}
        if lora.attached(model):
            model._weight_conversions = None  # reading adapters leaves some that would rename the model's own tensors
        processor = read_processor(path)
    except CorlError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error
    if missing:
        names = sorted(map(str, missing))
        raise CorlError(
            f"{path} is not a whole Janus checkpoint: {len(names)} tensors are missing or misshapen, "
            f"{names[0]} for one.",
            "Copy or convert it again.",
        )
    return model, processor


def read_config(path: str | Path) -> JanusConfig:
    """The configuration of the model at `path`, of adapters that of their base; CorlError."""
    try:
        return _config(lora.base_of(path))
    except CorlError:
        raise
    except Exception as error:
        raise _unreadable(path, error) from error


def read_processor(path: str | Path) -> JanusProcessor:
    """Tokenizer, image processor and chat template at `path`; errors are transformers' own."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    images = JanusImageProcessorPil.from_pretrained(path)
    processor = JanusProcessor.from_pretrained(path, tokenizer=tokenizer, image_processor=images)
    processor.chat_template = processor.chat_template or getattr(tokenizer, "chat_template", None)
    return processor


def _config(path: str) -> JanusConfig:
    """Janus never ties its embeddings, though transformers' default says so."""
    config = JanusConfig.from_pretrained(path)
    config.tie_word_embeddings = False
    return config


def _unreadable(path: str | Path, error: Exception) -> CorlError:
    if isinstance(error.__cause__, (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError)):
        reason = "there is no such folder here, and no such model could be had from the hub."
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CorlError(
        f"No Janus checkpoint could be read from {path}: {reason}",
        "Give a folder in transformers' format, a corl run, or a hub id that this machine can reach.",
    )
