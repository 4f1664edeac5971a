"""The tiny Janus: transformers' own classes at 1.4 M parameters, with a tokenizer of the world's words.

It is used like a real Janus checkpoint: the tokenizer adds the one BOS, the chat template has Janus's roles, and the
tags of a solution are ordinary tokens, so that decoding keeps them.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    JanusConfig,
    JanusForConditionalGeneration,
    JanusProcessor,
    JanusVisionConfig,
    JanusVQVAEConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
)
from transformers.models.janus.image_processing_pil_janus import JanusImageProcessorPil

from corl_cli.models.original_files import generation_config
from corl_cli.world.drawing import IMAGE_SIZE
from corl_cli.world.language import vocabulary

PAD, BOS, EOS, UNK = "<|pad|>", "<|begin_of_sentence|>", "<|end_of_sentence|>", "<|unknown|>"
BOI, EOI, IMAGE = "<begin_of_image>", "<end_of_image>", "<image_placeholder>"
USER, ASSISTANT = "<|User|>", "<|Assistant|>"
SPECIAL = (PAD, BOS, EOS, UNK, BOI, EOI, IMAGE, USER, ASSISTANT)
TAGS = ("<think>", "</think>", "<answer>", "</answer>")

PATCH_SIZE = 8
NUM_IMAGE_TOKENS = (IMAGE_SIZE // PATCH_SIZE) ** 2
HIDDEN_SIZE = 128

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|User|> ' if message['role'] == 'user' else '<|Assistant|> ' }}"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{{ '<image_placeholder>' if part['type'] == 'image' else part['text'] }}"
    "{% if not loop.last %} {% endif %}"
    "{% endfor %}{% endif %}"
    "{{ ' ' if message['role'] == 'user' else '<|end_of_sentence|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|>' }}{% endif %}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer: whole words (hyphens included), tags and punctuation marks; adds one BOS."""
    vocab = {token: index for index, token in enumerate((*SPECIAL, *TAGS, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=UNK))
    words = Regex(r"</?\w+>|\w+(?:-\w+)*|[^\w\s]")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(words, behavior="isolated")]
    )
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)  # joins by blanks, none before punctuation
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocab[BOS])])
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": IMAGE, "boi_token": BOI, "eoi_token": EOI},
    )


def build_processor() -> JanusProcessor:
    """Tokenizer, image processor (pixels to -1..1) and chat template."""
    images = JanusImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    return JanusProcessor(
        images,
        build_tokenizer(),
        chat_template=_CHAT_TEMPLATE,
        use_default_system_prompt=False,
        num_image_tokens=NUM_IMAGE_TOKENS,
    )


def build_config(tokenizer: PreTrainedTokenizerFast) -> JanusConfig:
    """The sizes of the tiny Janus."""
    vision = JanusVisionConfig(
        hidden_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        mlp_ratio=3.0,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        num_image_tokens=NUM_IMAGE_TOKENS,
        projection_dim=HIDDEN_SIZE,
    )
    vq = JanusVQVAEConfig(
        embed_dim=8,
        num_embeddings=128,
        latent_channels=32,
        base_channels=32,
        channel_multiplier=[1, 1, 1, 1],
        num_res_blocks=0,
        num_patches=IMAGE_SIZE // PATCH_SIZE,
        projection_dim=HIDDEN_SIZE,
        image_token_embed_dim=HIDDEN_SIZE,
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=128,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return JanusConfig(
        text_config=text,
        vision_config=vision,
        vq_config=vq,
        image_token_id=tokenizer.convert_tokens_to_ids(IMAGE),
        tie_word_embeddings=False,
    )


def build_model(processor: JanusProcessor) -> JanusForConditionalGeneration:
    """A tiny Janus with random weights (from torch's generator)."""
    model = JanusForConditionalGeneration(build_config(processor.tokenizer))
    model.generation_config = generation_config(processor.tokenizer)
    return model


def save(model: JanusForConditionalGeneration, processor: JanusProcessor, path: Path) -> None:
    """Write the model in bfloat16 with its processor; transformers and JanusPolicy can load the folder."""
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(path)
    processor.save_pretrained(path)
