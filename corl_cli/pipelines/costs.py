"""The least work that drawing, writing and updating take, counted from a Janus' configuration.

Arithmetic is that of matrix products, two operations per multiply-add, of the positions that causal attention really
sees; norms, activations, softmax and sampling are left out. Traffic is that of weights, keys and values between
memory and the arithmetic units: weights once per pass or decode step, a prompt's keys and values once for its whole
group, a row's own once for itself. Prompts are shared throughout, and images are seen once. A machine that does the
work in less time than its rates allow does not do it. Decoding image tokens to pixels is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from corl_cli.core.types import Task

if TYPE_CHECKING:
    from transformers import JanusConfig

BYTES = {"bfloat16": 2, "float32": 4}  # of a number in a compute precision
GRADIENT_BYTES = BYTES["float32"]  # as the weights are that learn
# AdamW reads weight, gradient and two moments, and writes all but the gradient, in float32.
ADAM_BYTES = 7 * BYTES["float32"]


@dataclass(frozen=True)
class Work:
    """Arithmetic in operations (2 per multiply-add) and traffic to memory in bytes."""

    flops: float
    nbytes: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.nbytes + other.nbytes)

    def __mul__(self, times: float) -> Work:
        return Work(self.flops * times, self.nbytes * times)

    def seconds(self, bandwidth: float, arithmetic: float) -> float:
        """The least time at a bandwidth in bytes/s and an arithmetic rate in flop/s, if the two overlap fully."""
        return max(self.flops / arithmetic, self.nbytes / bandwidth)


def layers(config: JanusConfig) -> int:
    """Weights of the language model's linear layers; grouped queries have fewer keys and values than heads."""
    text = config.text_config
    attention = 2 * text.num_attention_heads + 2 * text.num_key_value_heads
    return int(text.num_hidden_layers * text.hidden_size * (attention * text.head_dim + 3 * text.intermediate_size))


def head(config: JanusConfig, task: Task) -> int:
    """Weights of the head that a task's tokens are read from: the image head, or lm_head."""
    if task == "mm2t":
        return int(config.text_config.hidden_size * config.text_config.vocab_size)
    vq = config.vq_config
    return int(vq.projection_dim * (vq.image_token_embed_dim + vq.num_embeddings))


def drawing_aligner(config: JanusConfig) -> int:
    """Weights that turn an image token into an input of the language model."""
    vq = config.vq_config
    return int(vq.projection_dim * (vq.embed_dim + (vq.num_hidden_layers - 1) * vq.projection_dim))


def seeing(config: JanusConfig, images: float, itemsize: int) -> Work:
    """Features of images in the language model's space: the vision tower and its aligner, one pass."""
    vision = config.vision_config
    width, projected = vision.hidden_size, vision.projection_dim
    patches = (vision.image_size // vision.patch_size) ** 2
    mlp = 2 * width * int(width * vision.mlp_ratio)
    weights = (
        vision.num_channels * vision.patch_size**2 * width
        + vision.num_hidden_layers * (4 * width**2 + mlp)
        + width * projected
        + (vision.depth - 1) * projected**2
    )
    attention = 4 * width * patches**2 * vision.num_hidden_layers
    return Work(images * (2 * weights * patches + attention), weights * itemsize)


def drawing(
    config: JanusConfig,
    prompts: float,
    group_size: int,
    prompt_tokens: float,
    new_tokens: float,
    halves: int,
    itemsize: int,
) -> Work:
    """`group_size` drawings of `new_tokens` tokens for each of so many prompts; 2 `halves` with guidance, else 1."""
    return _sampling(config, "t2i", prompts * halves, group_size, prompt_tokens, new_tokens, itemsize)


def writing(
    config: JanusConfig, prompts: float, group_size: int, prompt_tokens: float, new_tokens: float, itemsize: int
) -> Work:
    """`group_size` answers to each of so many questions about an image.

    prompt_tokens: with those of the image; new_tokens: those really written per row, a mean (rows of unequal length
    take more steps, and read the weights more often).
    """
    rows = _sampling(config, "mm2t", prompts, group_size, prompt_tokens, new_tokens, itemsize)
    return seeing(config, prompts, itemsize) + rows


def scoring(
    config: JanusConfig,
    task: Task,
    prompts: float,
    group_size: int,
    prompt_tokens: float,
    new_tokens: float,
    itemsize: int,
) -> Work:
    """One forward pass over completions, their prompts shared, for the log-probs of `new_tokens` tokens a row."""
    return (
        _blocks(config, prompts, group_size, prompt_tokens, new_tokens, itemsize)
        + _heads(config, task, prompts * group_size * new_tokens, itemsize)
        + _inputs(config, task, prompts, group_size, new_tokens, itemsize)
    )


def updating(
    config: JanusConfig,
    task: Task,
    prompts: float,
    group_size: int,
    prompt_tokens: float,
    new_tokens: float,
    itemsize: int,
    checkpointing: bool,
    adapters: bool = False,
) -> Work:
    """Forward and backward pass over completions, their prompts shared, with the language model and lm_head learning.

    The backward pass has twice the arithmetic of the forward pass, once for inputs and once for weights, and with
    checkpointing all layers but the last run forward again. What is frozen takes no gradient of its weights: the image
    head, and all linear layers where adapters learn (their own arithmetic, about 1 %, is left out). Images and image
    tokens are turned into inputs forward only, as frozen parts do. The optimiser's step is `stepping`.
    """
    blocks = _blocks(config, prompts, group_size, prompt_tokens, new_tokens, itemsize)
    attention = _attention(config, prompts, group_size, prompt_tokens, new_tokens)
    heads = _heads(config, task, prompts * group_size * new_tokens, itemsize)
    linear = Work(blocks.flops - attention, blocks.nbytes)
    learning = 1 if adapters else 2  # of the backward pass: inputs, and weights
    again = checkpointing * (1 - 1 / config.text_config.num_hidden_layers)  # packing.checkpoint_layers
    attending = 3 + again * (itemsize < BYTES["float32"])
    total = linear * (1 + learning + again) + Work(attention * attending, 0)
    total += heads * (2 if adapters or task == "t2i" else 3)
    gradients = 0 if adapters else layers(config) + (head(config, task) if task == "mm2t" else 0)
    return (
        total + Work(0, GRADIENT_BYTES * gradients) + _inputs(config, task, prompts, group_size, new_tokens, itemsize)
    )


def stepping(weights: int) -> Work:
    """One step of AdamW on so many float32 weights."""
    return Work(0, ADAM_BYTES * weights)


def _sampling(
    config: JanusConfig, task: Task, prompts: float, group: int, prompt_tokens: float, new_tokens: float, itemsize: int
) -> Work:
    """Prefill of prompts, then steps of all rows; the last token drawn is not fed."""
    rows, steps = prompts * group, new_tokens - 1
    prefill = Work(
        2 * layers(config) * prompts * prompt_tokens + _products(config) * prompts * _triangle(prompt_tokens),
        layers(config) * itemsize,
    )
    keys_seen = steps * prompt_tokens + _triangle(steps)  # by one row over all steps
    decode = Work(
        2 * layers(config) * rows * steps + _products(config) * rows * keys_seen,
        layers(config) * itemsize * steps,
    )
    column = _column(config) * itemsize
    written = column * (prompts * prompt_tokens + rows * steps)
    read = column * (prompts * steps * prompt_tokens + rows * _triangle(steps))
    heads = Work(2 * head(config, task) * rows * new_tokens, head(config, task) * itemsize * new_tokens)
    return prefill + decode + heads + Work(_fed(config, task, rows * steps), written + read)


def _blocks(
    config: JanusConfig, prompts: float, group: int, prompt_tokens: float, new_tokens: float, itemsize: int
) -> Work:
    """One forward pass of the layers over prompts and all but the last token of each completion."""
    tokens = prompts * (prompt_tokens + group * (new_tokens - 1))
    flops = 2 * layers(config) * tokens + _attention(config, prompts, group, prompt_tokens, new_tokens)
    return Work(flops, layers(config) * itemsize)


def _heads(config: JanusConfig, task: Task, tokens: float, itemsize: int) -> Work:
    return Work(2 * head(config, task) * tokens, head(config, task) * itemsize)


def _inputs(config: JanusConfig, task: Task, prompts: float, group: int, new_tokens: float, itemsize: int) -> Work:
    """Images seen, or image tokens fed."""
    if task == "mm2t":
        return seeing(config, prompts, itemsize)
    return Work(_fed(config, task, prompts * group * (new_tokens - 1)), drawing_aligner(config) * itemsize)


def _fed(config: JanusConfig, task: Task, tokens: float) -> float:
    return 2 * drawing_aligner(config) * tokens if task == "t2i" else 0.0


def _attention(config: JanusConfig, prompts: float, group: int, prompt_tokens: float, new_tokens: float) -> float:
    """Arithmetic of one forward pass of attention with the prompt's keys shared by its group."""
    fed = new_tokens - 1
    pairs = _triangle(prompt_tokens) + group * (fed * prompt_tokens + _triangle(fed))
    return _products(config) * prompts * pairs


def _products(config: JanusConfig) -> int:
    """Arithmetic of one query and one key over all layers: the score, and the value's share."""
    text = config.text_config
    return int(4 * text.num_hidden_layers * text.num_attention_heads * text.head_dim)


def _column(config: JanusConfig) -> int:
    """Numbers that one token keeps in the cache: keys and values of all layers."""
    text = config.text_config
    return int(2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim)


def _triangle(length: float) -> float:
    """Pairs of a query and a key that it sees, causally, over so many positions."""
    return length * (length + 1) / 2
