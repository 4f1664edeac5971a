"""Tokenizer and image processor of DeepSeek's Janus checkpoints, to transformers' and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import (
    GenerationConfig,
    JanusConfig,
    JanusImageProcessorPil,
    JanusProcessor,
    PreTrainedTokenizerFast,
)

from corl_cli.core.errors import UsageError
from corl_cli.models.shards import read_json

TAGS = {  # what DeepSeek's processor calls the tokens that prompts are made of, its defaults, transformers' names
    "image_tag": ("<image_placeholder>", "image_token"),
    "image_start_tag": ("<begin_of_image>", "boi_token"),
    "image_end_tag": ("<end_of_image>", "eoi_token"),
    "pad_tag": ("<｜▁pad▁｜>", "pad_token"),
}
TEMPLATE = "chat_template.jinja"
STEPS = ("do_resize", "do_pad", "do_rescale", "do_normalize")  # what is always done to images


def processor_from(folder: Path, roles: tuple[str, str]) -> JanusProcessor:
    """transformers' processor of the checkpoint of DeepSeek's in a folder: tokenizer, images, chat template.

    `roles` are what its prompts call the two speakers. The tokenizer adds the one begin-of-sequence token, as
    DeepSeek's does when it is loaded. UsageError when a file or a token is lacking.
    """
    images, settings = read_json(folder / "preprocessor_config.json"), read_json(folder / "tokenizer_config.json")
    tags = read_json(file) if (file := folder / "processor_config.json").exists() else {}
    read_json(folder / "tokenizer.json")
    check_images(images)
    if "image_size" not in images:
        raise UsageError(f"{folder} has a preprocessor_config.json without image_size.", "Copy or fetch it again.")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    named = {key: _content(settings.get(key)) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    for tag, (usual, name) in TAGS.items():
        token = tags.get(tag, usual)
        named[name] = named.get(name) if backend.token_to_id(token) is None and named.get(name) else token
    needed = {name: token for name, token in named.items() if name != "unk_token"}
    lacking = [f"{name} ({token})" for name, token in needed.items() if not _known(backend, token)]
    if lacking:
        raise UsageError(f"{folder} has a tokenizer without {', '.join(lacking)}.", "Copy or fetch it again.")
    bos = str(named["bos_token"])
    if settings.get("add_bos_token", True) and not _begins(backend, bos):
        number = backend.token_to_id(bos)
        backend.post_processor = TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, number)]
        )
    limit = {"model_max_length": settings["model_max_length"]} if settings.get("model_max_length") else {}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{name: named[name] for name in ("bos_token", "eos_token", "unk_token", "pad_token") if named[name]},
        **limit,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={name: named[name] for name in ("image_token", "boi_token", "eoi_token")},
    )
    processor = JanusProcessor(
        JanusImageProcessorPil(
            size={"height": images["image_size"], "width": images["image_size"]},
            **{key: images[key] for key in ("image_mean", "image_std", "min_size", "rescale_factor") if key in images},
        ),
        tokenizer,
        chat_template=chat_template(roles, str(named["eos_token"]), str(named["image_token"])),
        use_default_system_prompt=False,
        num_image_tokens=tags.get("num_image_tokens", 576),
    )
    processor.chat_template = own_template(folder, processor) or processor.chat_template
    return processor


def own_template(folder: Path, processor: JanusProcessor) -> str | None:
    """The chat template that lies in a folder, if it is one for messages with an image and not a language model's."""
    file = folder / TEMPLATE
    template = file.read_text(encoding="utf-8") if file.is_file() else None
    return template if template and _reads(processor, template) else None


def check_images(settings: Mapping[str, Any]) -> None:
    """UsageError when an image processor, of either format, does less than DeepSeek's always does for Janus."""
    steps = [
        key for key in ("do_resize", "do_pad", "do_rescale", "do_normalize") if settings.get(key, True) is not True
    ]
    steps += [key for key in ("image_mean", "image_std") if key in settings and not settings[key]]
    if steps:
        said = ", ".join(f"{key} is {json.dumps(settings[key])}" for key in steps)
        raise UsageError(
            f"its preprocessor_config.json says that {said}, and Janus sees normalised images only.",
            "Set do_normalize to true, image_mean and image_std to what it was trained with: 0.5 each in Janus-Pro.",
        )


def generation_config(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """What transformers' own generate needs to know; it reads the begin-of-image id from `generation_kwargs`."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        generation_kwargs={"boi_token_id": tokenizer.convert_tokens_to_ids(tokenizer.boi_token)},
    )


def with_tokens(config: JanusConfig, processor: JanusProcessor) -> JanusConfig:
    """The configuration with the token ids of a tokenizer."""
    tokenizer = processor.tokenizer
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config.text_config, name, getattr(tokenizer, name))
    config.image_token_id = tokenizer.convert_tokens_to_ids(tokenizer.image_token)
    return config


def save_original(processor: JanusProcessor, folder: Path) -> None:
    """Write tokenizer and image processor as DeepSeek's VLChatProcessor reads them; the chat template stays beside."""
    tokenizer, images = processor.tokenizer, processor.image_processor
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    named = {key: getattr(tokenizer, key) for key in ("bos_token", "eos_token", "unk_token", "pad_token")}
    special = sorted(str(token) for token in tokenizer.added_tokens_decoder.values() if token.special)
    files: dict[str, dict[str, Any]] = {
        "tokenizer_config.json": {
            "tokenizer_class": "LlamaTokenizerFast",
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": tokenizer.model_max_length,
            **named,
        },
        "special_tokens_map.json": {
            **{key: token for key, token in named.items() if token},
            "additional_special_tokens": [token for token in special if token not in named.values()],
        },
        "preprocessor_config.json": {
            "image_processor_type": "VLMImageProcessor",
            "processor_class": "VLChatProcessor",
            "image_size": images.size["height"],
            "min_size": images.min_size,
            "image_mean": list(images.image_mean),
            "image_std": list(images.image_std),
            "rescale_factor": images.rescale_factor,
            "do_normalize": images.do_normalize,
            "background_color": list(images.background_color),
        },
        "processor_config.json": {
            "processor_class": "VLChatProcessor",
            "add_special_token": False,
            "ignore_id": -100,
            "mask_prompt": True,
            "num_image_tokens": processor.num_image_tokens,
            "sft_format": "deepseek",
            **{tag: getattr(tokenizer, name) for tag, (_, name) in TAGS.items()},
        },
    }
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / TEMPLATE).write_text(processor.chat_template, encoding="utf-8")


def chat_template(roles: tuple[str, str], eos: str, image: str) -> str:
    """Janus's chat format without a system prompt: `ROLE: words`, a blank line after the user, an image on a line."""
    user, assistant = roles
    return (
        "{% for message in messages %}"
        f"{{{{ '{user}: ' if message['role'] == 'user' else '{assistant}: ' }}}}"
        "{% if message['content'] is string %}{{ message['content'] | trim }}"
        "{% else %}{% for part in message['content'] %}"
        f"{{{{ '{image}' if part['type'] == 'image' else part['text'] | trim }}}}"
        "{% if not loop.last %}{{ '\\n' }}{% endif %}"
        "{% endfor %}{% endif %}"
        f"{{% if message['role'] != 'user' %}}{{{{ '{eos}' }}}}"
        "{% elif not loop.last or add_generation_prompt %}{{ '\\n\\n' }}{% endif %}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ '{assistant}:' }}}}{{% endif %}}"
    )


def prompt(processor: JanusProcessor, words: str) -> str:
    """What the model is given for a user's words."""
    message = {"role": "user", "content": [{"type": "text", "text": words}]}
    rendered: str = processor.apply_chat_template([message], add_generation_prompt=True)
    return rendered


def _reads(processor: JanusProcessor, template: str) -> bool:
    """Whether a chat template is one for messages with an image, and not a language model's."""
    words = [{"type": "image"}, {"type": "text", "text": "words"}]
    try:
        rendered = processor.apply_chat_template([{"role": "user", "content": words}], chat_template=template)
    except Exception:  # as many kinds as templates can have faults
        return False
    return processor.tokenizer.image_token in rendered and "words" in rendered


def _begins(backend: Tokenizer, bos: str) -> bool:
    return backend.encode("a").ids[:1] == [backend.token_to_id(bos)]


def _known(backend: Tokenizer, token: str | None) -> bool:
    return token is not None and backend.token_to_id(token) is not None


def _content(token: Any) -> str | None:
    """A token as tokenizer_config.json may hold it: a word, or a word with its properties."""
    return token.get("content") if isinstance(token, dict) else token
