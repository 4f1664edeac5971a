"""Configuration, tokenizer and image processor of DeepSeek's Janus checkpoints, to transformers' and back.

DeepSeek's code (https://github.com/deepseek-ai/Janus, janus/models) has one size of SigLIP and one of the VQ model, and
no names for others. A Janus of other sizes is written with names of corl's own, which that code refuses by name.
"""

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
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from corl_cli.core.errors import UsageError

KIND = "multi_modality"
CLASSES = {  # each section of the configuration, and the class that it names
    "vision_config": "CLIPVisionTower",
    "aligner_config": "MlpProjector",
    "gen_vision_config": "VQ-16",
    "gen_aligner_config": "MlpProjector",
    "gen_head_config": "vision_head",
}
SIGLIP = "siglip_large_patch16_384"
SIGLIP_SIZES = {"width": 1024, "layers": 24, "heads": 16, "patch_size": 16, "mlp_ratio": 4}
VQ_SIZES = {"ch": 128, "ch_mult": [1, 1, 2, 2, 4], "num_res_blocks": 2, "z_channels": 256}
OWN_SIGLIP, OWN_VQ = "siglip_of_corl", "VQ-of-corl"  # for sizes that DeepSeek's code does not have
LLAMA = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "hidden_act",
    "attention_bias",
    "mlp_bias",
)
TAGS = {  # what DeepSeek's processor calls the tokens that prompts are made of, its defaults, transformers' names
    "image_tag": ("<image_placeholder>", "image_token"),
    "image_start_tag": ("<begin_of_image>", "boi_token"),
    "image_end_tag": ("<end_of_image>", "eoi_token"),
    "pad_tag": ("<｜▁pad▁｜>", "pad_token"),
}
TEMPLATE = "chat_template.jinja"
HINT = "corl converts Janus-1.3B, Janus-Pro and models trained from them."


# ---- configuration ---------------------------------------------------------------------------------------------------


def config_from(original: Mapping[str, Any]) -> JanusConfig:
    """transformers' configuration of a Janus from DeepSeek's, without token ids; UsageError with all faults."""
    lacking = [section for section in (*CLASSES, "language_config") if not original.get(section)]
    if lacking:
        raise UsageError(
            f"Its config.json has no {', '.join(lacking)}: it is no Janus that draws by tokens (JanusFlow and "
            "DeepSeek-VL have the same model_type).",
            HINT,
        )
    params = {section: original[section].get("params", {}) for section in CLASSES}
    siglip, vq = params["vision_config"], params["gen_vision_config"]
    _refuse(_foreign(original, params))
    sizes = siglip if siglip["model_name"] == OWN_SIGLIP else SIGLIP_SIZES
    coder = vq if original["gen_vision_config"].get("cls") == OWN_VQ else VQ_SIZES
    llama = original["language_config"]  # its defaults are transformers' own; how it attends is up to who loads it
    text = LlamaConfig(**{key: llama[key] for key in (*LLAMA, "rope_theta", "rope_scaling") if key in llama})
    vision = JanusVisionConfig(
        hidden_size=sizes["width"],
        num_hidden_layers=sizes["layers"],
        num_attention_heads=sizes["heads"],
        patch_size=sizes["patch_size"],
        mlp_ratio=sizes["mlp_ratio"],
        image_size=siglip["image_size"],
        num_image_tokens=(siglip["image_size"] // sizes["patch_size"]) ** 2,
        projection_dim=text.hidden_size,
    )
    drawing = JanusVQVAEConfig(
        embed_dim=vq["n_embed"],
        num_embeddings=vq["image_token_size"],
        base_channels=coder["ch"],
        channel_multiplier=coder["ch_mult"],
        num_res_blocks=coder["num_res_blocks"],
        latent_channels=coder["z_channels"],
        projection_dim=text.hidden_size,
        image_token_embed_dim=text.hidden_size,
    )
    return JanusConfig(text_config=text, vision_config=vision, vq_config=drawing, tie_word_embeddings=False)


def config_to(config: JanusConfig) -> dict[str, Any]:
    """DeepSeek's configuration of a Janus from transformers'; UsageError for what DeepSeek's code cannot be."""
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    width, rope = text.hidden_size, dict(text.rope_parameters)
    _refuse(_inexpressible(config))
    sizes = {
        "width": vision.hidden_size,
        "layers": vision.num_hidden_layers,
        "heads": vision.num_attention_heads,
        "patch_size": vision.patch_size,
        "mlp_ratio": vision.mlp_ratio,
    }
    coder = {
        "ch": vq.base_channels,
        "ch_mult": list(vq.channel_multiplier),
        "num_res_blocks": vq.num_res_blocks,
        "z_channels": vq.latent_channels,
    }
    usual, usual_vq = sizes == SIGLIP_SIZES, coder == VQ_SIZES
    params: dict[str, dict[str, Any]] = {
        "vision_config": {
            "image_size": vision.image_size,
            "model_name": SIGLIP if usual else OWN_SIGLIP,
            "select_feature": "same",
            "select_layer": -1,
            **({} if usual else sizes),
        },
        "aligner_config": _projector(vision.hidden_size, width),
        "gen_vision_config": {
            "image_token_size": vq.num_embeddings,
            "n_embed": vq.embed_dim,
            **({} if usual_vq else coder),
        },
        "gen_aligner_config": _projector(vq.embed_dim, width),
        "gen_head_config": {"image_token_embed": width, "image_token_size": vq.num_embeddings, "n_embed": width},
    }
    classes = CLASSES if usual_vq else CLASSES | {"gen_vision_config": OWN_VQ}
    llama = {key: getattr(text, key) for key in LLAMA} | {"rope_theta": rope.pop("rope_theta")}
    if rope.pop("rope_type") != "default":
        raise UsageError("Its rotary embeddings are scaled, which corl does not convert.", HINT)
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": KIND,
        "language_config": {"model_type": "llama", **llama},
        **{
            section: {"cls": classes[section], "model_type": section.removesuffix("_config"), "params": params[section]}
            for section in CLASSES
        },
    }


def at_home(original: Mapping[str, Any]) -> bool:
    """Whether DeepSeek's own code has a model of this configuration's sizes."""
    named = original["vision_config"]["params"]["model_name"], original["gen_vision_config"]["cls"]
    return named == (SIGLIP, CLASSES["gen_vision_config"])


def _projector(into: int, out: int) -> dict[str, Any]:
    return {"depth": 2, "input_dim": into, "n_embed": out, "projector_type": "mlp_gelu"}


def _foreign(original: Mapping[str, Any], params: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a configuration of DeepSeek's says that transformers' Janus cannot be."""
    faults = [
        f"{section}.cls is {original[section].get('cls')}, not {name}"
        for section, name in CLASSES.items()
        if original[section].get("cls") not in (name, OWN_VQ if section == "gen_vision_config" else name)
    ]
    wanted: dict[str, dict[str, tuple[Any, ...]]] = {
        "vision_config": {
            "model_name": (SIGLIP, OWN_SIGLIP),
            "select_layer": (-1,),
            "pixel_mean": (None,),  # the images' processor has normalised them
            "pixel_std": (None,),
        },
        "aligner_config": {"projector_type": ("mlp_gelu",), "depth": (2,)},
        "gen_aligner_config": {"projector_type": ("mlp_gelu",), "depth": (2,)},
    }
    faults += [
        f"{section}.params.{key} is {params[section].get(key)}, not {values[0]}"
        for section, keys in wanted.items()
        for key, values in keys.items()
        if params[section].get(key) not in values
    ]
    needed = {"vision_config": ("image_size",), "gen_vision_config": ("n_embed", "image_token_size")}
    return faults + [
        f"{section}.params.{key} is missing"
        for section, keys in needed.items()
        for key in keys
        if key not in params[section]
    ]


def _inexpressible(config: JanusConfig) -> list[str]:
    """What a configuration of transformers' says that DeepSeek's Janus cannot be."""
    text, vision, vq = config.text_config, config.vision_config, config.vq_config
    wanted = {
        "text_config.head_dim": (text.head_dim, text.hidden_size // text.num_attention_heads),
        "vision_config.hidden_act": (vision.hidden_act, "gelu"),
        "vision_config.attention_bias": (vision.attention_bias, True),
        "vision_config.use_qk_norm": (vision.use_qk_norm, False),
        "vision_config.layer_norm_eps": (vision.layer_norm_eps, 1e-6),
        "vision_config.depth": (vision.depth, 2),
        "vision_config.projection_dim": (vision.projection_dim, text.hidden_size),
        "vq_config.hidden_act": (vq.hidden_act, "gelu"),
        "vq_config.num_hidden_layers": (vq.num_hidden_layers, 2),
        "vq_config.double_latent": (vq.double_latent, False),
        "vq_config.projection_dim": (vq.projection_dim, text.hidden_size),
        "vq_config.image_token_embed_dim": (vq.image_token_embed_dim, text.hidden_size),
    }
    return [f"{key} is {found}, not {needed}" for key, (found, needed) in wanted.items() if found != needed]


def _refuse(faults: list[str]) -> None:
    if faults:
        raise UsageError(f"Its config.json is of another model: {'; '.join(faults)}.", HINT)


# ---- tokenizer and images --------------------------------------------------------------------------------------------


def processor_from(folder: Path, roles: tuple[str, str]) -> JanusProcessor:
    """transformers' processor of the checkpoint of DeepSeek's in a folder: tokenizer, images, chat template.

    `roles` are what its prompts call the two speakers. The tokenizer adds the one begin-of-sequence token, as
    DeepSeek's does when it is loaded. UsageError when a file or a token is lacking.
    """
    images, settings = _json(folder / "preprocessor_config.json"), _json(folder / "tokenizer_config.json")
    tags = _json(folder / "processor_config.json", optional=True)
    _json(folder / "tokenizer.json")
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
    own = folder / TEMPLATE
    if own.is_file() and _reads(processor, template := own.read_text(encoding="utf-8")):
        processor.chat_template = template
    return processor


def generation_from(processor: JanusProcessor) -> GenerationConfig:
    """What transformers' own generate needs to know; it reads the begin-of-image id from `generation_kwargs`."""
    tokenizer = processor.tokenizer
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


def _json(file: Path, *, optional: bool = False) -> dict[str, Any]:
    if optional and not file.exists():
        return {}
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "Copy or fetch it again.") from error
    return found
