"""Whether a Janus checkpoint can be trained, from everything in it but the numbers in its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, JanusConfig
from transformers.utils import has_file

from corl_cli.core.errors import CorlError
from corl_cli.models import loading, lora

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
TOKENS = ("bos_token", "eos_token", "pad_token", "image_token", "boi_token", "eoi_token")  # what prompts are made of
HINT = "Give a folder in transformers' format, a corl run, or a hub id that this machine can reach."


def check(path: str | Path) -> None:
    """CorlError with a line for each reason why the checkpoint at `path` (a folder or a hub id) cannot be trained."""
    folder = Path(path)
    if folder.is_dir() and not any((folder / name).exists() for name in ("config.json", "adapter_config.json")):
        raise CorlError(f"{path} holds no model: there is no config.json in it.", HINT)
    base = lora.base_of(path)
    if (kind := _kind(base)) != "janus":
        if kind == "multi_modality":
            raise CorlError(f"{path} is in DeepSeek's format.", f"Convert it: corl convert {path} --out NEW")
        raise CorlError(f"{path} is no Janus: its config.json says {kind}.", HINT)
    faults = [
        f"{path} {fault}"
        for fault in [*_weights(base), *_adapters(path, base), *_tokenizer(path, loading.read_config(path))]
    ]
    if faults:
        raise CorlError("\n".join(faults), HINT)


def _kind(base: str) -> str:
    """What the configuration says that the model is."""
    try:
        return str(JanusConfig.get_config_dict(base)[0].get("model_type"))
    except OSError:
        return loading.read_config(base).model_type  # which says why it cannot be read


def _weights(base: str) -> list[str]:
    """What is missing of the weights themselves."""
    if not any(has_file(base, name) for name in WEIGHTS):
        return [f"has no weights: there is no {WEIGHTS[0]} in it."]
    folder = Path(base)  # there is none for a hub id, whose files come whole
    if (folder / WEIGHTS[0]).exists():
        return _unreadable(folder / WEIGHTS[0])
    index = folder / WEIGHTS[1]
    if not index.exists():
        return []
    try:
        shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return [f"has a damaged {index.name}."]
    missing = [name for name in shards if not (folder / name).exists()]
    faults = [f"lacks {len(missing)} of {len(shards)} files of weights, {missing[0]} for one."] if missing else []
    return faults + [fault for name in shards if name not in missing for fault in _unreadable(folder / name)]


def _adapters(path: str | Path, base: str) -> list[str]:
    """What is wrong with the file of adapters for a base that is elsewhere."""
    if base == str(path) or not Path(path).is_dir():
        return []
    file = Path(path) / "adapter_model.safetensors"
    return _unreadable(file) if file.exists() else [f"has no weights: there is no {file.name} in it."]


def _unreadable(file: Path) -> list[str]:
    """What is wrong with a file of safetensors by its header, which says how long the file is."""
    try:
        with safe_open(file, framework="pt"):
            return []
    except (SafetensorError, OSError) as error:
        return [f"has a damaged {file.name}: {str(error).splitlines()[0]}."]


def _tokenizer(path: str | Path, config: JanusConfig) -> list[str]:
    """Where the tokenizer does not fit the model."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path)
    except Exception as error:  # as many kinds as there are ways to be damaged
        return [f"has no tokenizer that can be read: {(str(error).strip() or type(error).__name__).splitlines()[0]}"]
    faults = []
    embedded, last = config.text_config.vocab_size, max(tokenizer.get_vocab().values(), default=0)
    if last >= embedded:
        faults.append(f"has a tokenizer of {last + 1} tokens for a model that embeds {embedded}.")
    known = tokenizer.get_vocab()
    lacking = [name for name in TOKENS if getattr(tokenizer, name, None) not in known]
    if lacking:
        faults.append(f"has a tokenizer without {', '.join(lacking)}, which prompts are made of.")
    elif (own := known[tokenizer.image_token]) != config.image_token_id:
        faults.append(f"has an image token of number {own} where the model expects {config.image_token_id}.")
    if not lacking and not loading.read_processor(path).chat_template:
        faults.append("has no chat template.")
    return faults
