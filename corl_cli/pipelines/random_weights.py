"""Models of the real classes with random weights, where only the cost of a model is asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import JanusConfig, JanusProcessor

    from corl_cli.core.recipe import Lora, Part
    from corl_cli.models.janus import JanusPolicy

MARKS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
IDS = {"pad_token_id": 0, "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3}
SMALL = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SIGLIP_LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "mlp_ratio": 4.0,
    "image_size": 384,
    "patch_size": 16,
    "num_image_tokens": 576,
    "depth": 2,
}
VQ_16 = {
    "embed_dim": 8,
    "num_embeddings": 16384,
    "latent_channels": 256,
    "base_channels": 128,
    "channel_multiplier": [1, 1, 2, 2, 4],
    "num_res_blocks": 2,
    "num_hidden_layers": 2,
}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a Janus, by the names of transformers' configurations: language model, SigLIP, VQ model."""

    text: Mapping[str, Any]
    vision: Mapping[str, Any]
    vq: Mapping[str, Any]


JANUS = {
    # Two layers that draw 4 tokens of 16 pixels: the parts of the large one, for tests and a first try.
    "small": Shape(
        text={**SMALL, "vocab_size": 512, "max_position_embeddings": 1024},
        vision={
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 16,
            "patch_size": 8,
            "num_image_tokens": 4,
        },
        vq={"num_embeddings": 128, "latent_channels": 32, "base_channels": 32, "channel_multiplier": [1, 1, 1, 1]},
    ),
    # Six layers of 256 that draw 576 tokens and see 576, as the large ones do: long sequences for a CPU.
    "tiny": Shape(
        text={
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 688,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "max_position_embeddings": 2048,
        },
        vision={
            "hidden_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 384,
            "patch_size": 16,
            "num_image_tokens": 576,
        },
        vq={
            "num_embeddings": 16384,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1, 1, 1, 1, 1],
            "num_res_blocks": 0,
        },
    ),
    # deepseek-community/Janus-Pro-1B: its configuration files, and transformers' defaults, which name that checkpoint.
    "janus-pro-1b": Shape(
        text={
            "vocab_size": 102400,
            "hidden_size": 2048,
            "intermediate_size": 5632,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "max_position_embeddings": 16384,
        },
        vision=SIGLIP_LARGE,
        vq=VQ_16,
    ),
    # deepseek-ai/Janus-Pro-7B, whose config.json names these, and the same SigLIP and VQ model as the 1B; as
    # deepseek-community/Janus-Pro-7B holds them in transformers' format.
    "janus-pro-7b": Shape(
        text={
            "vocab_size": 102400,
            "hidden_size": 4096,
            "intermediate_size": 11008,
            "num_hidden_layers": 30,
            "num_attention_heads": 32,
            "max_position_embeddings": 16384,
        },
        vision=SIGLIP_LARGE,
        vq=VQ_16,
    ),
}


def janus(
    shape: Shape,
    device: torch.device,
    dtype: str,
    *,
    train: Sequence[Part] = ("language_model",),
    adapters: Lora | None = None,
) -> JanusPolicy:
    """A policy of these shapes, made on `device` (meta: shapes alone), with the processor of `janus_processor`.

    What learns is as in UnifiedPolicy.load.
    """
    from transformers import JanusForConditionalGeneration

    from corl_cli.models import lora
    from corl_cli.models.janus import JanusPolicy
    from corl_cli.models.original_files import generation_config

    processor = janus_processor(shape)
    with device:
        model = JanusForConditionalGeneration(janus_config(shape))
        if adapters:
            lora.attach(model, adapters, None)
    model.generation_config = generation_config(processor.tokenizer)
    return JanusPolicy(model, processor, dtype, train)


def janus_processor(shape: Shape) -> JanusProcessor:
    """The embedded world's processor for images of these shapes, with an end of sequence that no head can give.

    The tokenizer has a few dozen words; the ids beyond are sampled and scored like any other, and read as nothing.
    Random weights would end answers by chance, and no two runs would do the same work: theirs always run to the limit.
    """
    from tokenizers import Tokenizer
    from transformers import JanusImageProcessorPil

    from corl_cli.world.tiny import EOS, build_processor

    processor, side = build_processor(), shape.vision["image_size"]
    processor.image_processor = JanusImageProcessorPil(
        size={"height": side, "width": side}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    tokenizer = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    tokenizer["model"]["vocab"][EOS] = shape.text["vocab_size"]
    next(token for token in tokenizer["added_tokens"] if token["content"] == EOS)["id"] = shape.text["vocab_size"]
    processor.tokenizer._tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
    return processor


def janus_config(shape: Shape) -> JanusConfig:
    """transformers' configuration of a Janus of these shapes, with the token ids of the embedded world."""
    from transformers import JanusConfig, JanusVisionConfig, JanusVQVAEConfig, LlamaConfig

    from corl_cli.world.tiny import IMAGE, build_tokenizer

    tokenizer, width = build_tokenizer(), shape.text["hidden_size"]
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    return JanusConfig(
        text_config=LlamaConfig(**shape.text, **ids),
        vision_config=JanusVisionConfig(**shape.vision, projection_dim=width),
        vq_config=JanusVQVAEConfig(**shape.vq, projection_dim=width, image_token_embed_dim=width),
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=False,
    )


def vgg(folder: Path) -> Path:
    """The file of a vgg16 of full size, as torchvision's are."""
    from corl_cli.scoring.lpips_network import vgg16

    torch.save({f"features.{name}": value for name, value in vgg16().state_dict().items()}, folder / "vgg16.pth")
    return folder / "vgg16.pth"


def lpips_heads(folder: Path) -> Path:
    """The file of LPIPS' heads for vgg, as the lpips package's is."""
    from corl_cli.scoring.lpips_network import KINDS

    heads = {
        f"lin{index}.model.1.weight": torch.rand(1, channels, 1, 1)
        for index, channels in enumerate(KINDS["vgg"].channels)
    }
    torch.save(heads, folder / "heads.pth")
    return folder / "heads.pth"


def blip(folder: Path, *, full_size: bool) -> Path:
    """BLIP of base size (as Salesforce/blip-image-captioning-base), or a small one that reads images of 64 pixels."""
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    side = 384 if full_size else 64
    text = {"vocab_size": 30524, "num_attention_heads": 12} if full_size else {"vocab_size": 256, **SMALL}
    vision = {} if full_size else SMALL  # the defaults are the base size
    config = BlipConfig(
        text_config={**text, **IDS, "encoder_hidden_size": vision.get("hidden_size", 768)},
        vision_config={**vision, "image_size": side, "initializer_range": 0.02},  # the default 1e-10 is blind
    )
    images = BlipImageProcessorPil(size={"height": side, "width": side})
    return _saved(folder / "blip", BlipForConditionalGeneration(config), images)


def clip(folder: Path, *, full_size: bool) -> Path:
    """CLIP of the size of openai/clip-vit-large-patch14, or a small one that reads images of 64 pixels."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    side = 224 if full_size else 64
    text = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": 12}
    ids = {name: IDS[name] for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    config = CLIPConfig(
        text_config={**(text if full_size else SMALL), **ids, "vocab_size": 49408 if full_size else 256},
        vision_config={**(LARGE if full_size else SMALL), "image_size": side, "patch_size": 14 if full_size else 16},
        projection_dim=768 if full_size else 64,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    return _saved(folder / "clip", CLIPModel(config), images)


def text_encoder(folder: Path, *, full_size: bool) -> Path:
    """A BERT of the size of FacebookAI/roberta-large, or a small one."""
    from transformers import BertConfig, BertModel

    config = BertConfig(**(LARGE if full_size else SMALL), vocab_size=50265 if full_size else 256)
    return _saved(folder / "text_encoder", BertModel(config))


def _saved(folder: Path, *parts: Any) -> Path:
    from transformers.utils import logging

    logging.disable_progress_bar()
    for part in (*parts, _tokenizer()):
        part.save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    """A token for each word, all of them unknown: that costs what a known one does."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({mark: index for index, mark in enumerate(MARKS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", IDS["bos_token_id"]), ("[SEP]", IDS["eos_token_id"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
