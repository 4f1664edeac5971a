"""The configuration of DeepSeek's Janus checkpoints, to transformers' and back.

DeepSeek's code (https://github.com/deepseek-ai/Janus, janus/models) has one size of SigLIP and one of the VQ model, and
no names for others. A Janus of other sizes is written with names of corl's own, which that code refuses by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig, JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

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
ROTARY = ("rope_theta", "rope_scaling", "rope_parameters")  # transformers 4 has the first two, 5 has the last
IDLE = {*ROTARY, "torch_dtype"}  # known of the language model, beside what transformers knows
HINT = "corl converts Janus-1.3B, Janus-Pro and models trained from them."


def config_from(original: Mapping[str, Any]) -> JanusConfig:
    """transformers' configuration of a Janus from DeepSeek's, without token ids; UsageError with all faults.

    Messages are to stand behind the model's name and a colon, here and in `config_to`.
    """
    lacking = [section for section in (*CLASSES, "language_config") if not original.get(section)]
    if lacking:
        raise UsageError(
            f"its config.json has no {', '.join(lacking)}: it is no Janus that draws by tokens (JanusFlow and "
            "DeepSeek-VL have the same model_type).",
            HINT,
        )
    params = {section: original[section].get("params", {}) for section in CLASSES}
    llama = original["language_config"]  # its defaults are transformers' own; how it attends is up to who loads it
    siglip, vq = params["vision_config"], params["gen_vision_config"]
    _refuse([*_foreign(original, params), *_foreign_language(llama)])
    sizes = siglip if siglip["model_name"] == OWN_SIGLIP else SIGLIP_SIZES
    coder = vq if original["gen_vision_config"].get("cls") == OWN_VQ else VQ_SIZES
    if siglip["image_size"] % sizes["patch_size"]:
        _refuse([f"images of {siglip['image_size']} pixels are not so many patches of {sizes['patch_size']}"])
    text = LlamaConfig(**{key: llama[key] for key in (*LLAMA, *ROTARY) if key in llama})
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
    width = text.hidden_size
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
    llama = {key: getattr(text, key) for key in LLAMA} | {"rope_theta": text.rope_parameters["rope_theta"]}
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
            "select_feature": ("same", "cls_patch"),  # both take all; the default leaves out the first
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


def _foreign_language(llama: Mapping[str, Any]) -> list[str]:
    """The same of its language model, and what no Llama has; what is null or false asks for nothing."""
    faults = []
    if llama.get("model_type", "llama") != "llama":
        faults.append(f"language_config.model_type is {llama['model_type']}, not llama")
    if llama.get("tie_word_embeddings"):
        faults.append("language_config.tie_word_embeddings is true, not false")
    rope = {**(llama.get("rope_scaling") or {}), **(llama.get("rope_parameters") or {})}
    faults += _scaled("language_config", rope)
    if "rope_theta" in llama and rope.get("rope_theta", llama["rope_theta"]) != llama["rope_theta"]:
        faults.append(f"language_config has two rope_theta, {llama['rope_theta']} and {rope['rope_theta']}")
    known = IDLE | LlamaConfig().to_dict().keys() | GenerationConfig().to_dict().keys()
    odd = {key: value for key, value in llama.items() if value and key not in known and not key.startswith("_")}
    return faults + [f"language_config.{key} is {value}, which no Llama has" for key, value in odd.items()]


def _scaled(section: str, rope: Mapping[str, Any]) -> list[str]:
    """What rotary embeddings have beyond their base: DeepSeek's Janus has none of it."""
    plain = {"rope_type": "default", "type": "default"}
    more = {key: value for key, value in rope.items() if key != "rope_theta" and plain.get(key) != value}
    said = ", ".join(f"{key} {value}" for key, value in more.items())
    return [f"{section} scales its rotary embeddings ({said})"] if more else []


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
    faults = [f"{key} is {found}, not {needed}" for key, (found, needed) in wanted.items() if found != needed]
    return faults + _scaled("text_config", text.rope_parameters)


def _refuse(faults: list[str]) -> None:
    if faults:
        raise UsageError(f"its config.json is of another model: {'; '.join(faults)}.", HINT)
