"""DeepSeek's Janus checkpoints and transformers': the names of their tensors, and each format as a view of the other.

The tensors of Janus-1.3B and Janus-Pro are named by https://github.com/deepseek-ai/Janus (janus/models). transformers
has the same ones, but for SigLIP's attention, where it has three tensors for one, and its position embeddings, which
have one dimension less. Two things are DeepSeek's alone: SigLIP's pooling head, which Janus never evaluates, and a
counter of the VQ model's training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import JanusConfig, JanusForConditionalGeneration

from corl_cli.models.shards import Spec, Weights

Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = (  # DeepSeek's, transformers'
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_model.vision_tower.", "model.vision_model."),
    ("gen_vision_model.", "model.vqmodel."),
    ("aligner.layers.0.", "model.aligner.fc1."),
    ("aligner.layers.2.", "model.aligner.hidden_layers.0."),
    ("gen_aligner.layers.0.", "model.generation_aligner.fc1."),
    ("gen_aligner.layers.2.", "model.generation_aligner.hidden_layers.0."),
    ("gen_head.output_mlp_projector.", "model.generation_head.proj_out."),
    ("gen_head.vision_head.", "model.generation_head.vision_head."),
    ("gen_embed.", "model.generation_embeddings."),
)
INSIDE = {  # what else differs behind a prefix
    "vision_model.vision_tower.": (
        (".patch_embed.proj.", ".embeddings.patch_embedding."),
        (".pos_embed.", ".embeddings.position_embedding.weight."),
        (".blocks.", ".encoder.layers."),
        (".attn.proj.", ".self_attn.projection_layer."),
        (".attn.", ".self_attn."),
        (".norm1.", ".layer_norm1."),
        (".norm2.", ".layer_norm2."),
        (".norm.", ".post_layernorm."),
    ),
    "gen_vision_model.": (
        (".encoder.conv_blocks.", ".encoder.down."),
        (".decoder.conv_blocks.", ".decoder.up."),
        (".res.", ".block."),
        (".mid.0.", ".mid.block_1."),
        (".mid.1.", ".mid.attn_1."),
        (".mid.2.", ".mid.block_2."),
    ),
}
FUSED, THIRDS = ".self_attn.qkv.", (".self_attn.q_proj.", ".self_attn.k_proj.", ".self_attn.v_proj.")
POOL = "vision_model.vision_tower.attn_pool."
COUNTER = "gen_vision_model.quantize.codebook_used"
COUNTED = 65536  # the length that DeepSeek's code gives to the counter, whatever the size of the codebook


class Part(NamedTuple):
    """`rows` rows of a tensor, from row `first` on."""

    name: str
    first: int
    rows: int


# ---- names -----------------------------------------------------------------------------------------------------------


def to_transformers(name: str) -> list[str]:
    """transformers' names of one of DeepSeek's tensors: three for a fused one, in order; none for what is dropped.

    KeyError for a name that is no Janus's.
    """
    if dropped(name):
        return []
    theirs, ours = next((pair for pair in PREFIXES if name.startswith(pair[0])), (None, ""))
    if theirs is None:
        raise KeyError(name)
    rest = f".{name.removeprefix(theirs)}."
    for one, other in INSIDE.get(theirs, ()):
        rest = rest.replace(one, other)
    names = [rest.replace(FUSED, third) for third in THIRDS] if FUSED in rest else [rest]
    return [ours + each[1:-1] for each in names]


def to_original(name: str) -> tuple[str, int | None]:
    """DeepSeek's name of one of transformers' tensors, and which third of it where it is one; KeyError as above."""
    theirs, ours = next((pair for pair in PREFIXES if name.startswith(pair[1])), ("", None))
    if ours is None:
        raise KeyError(name)
    rest, third = f".{name.removeprefix(ours)}.", None
    if theirs == "vision_model.vision_tower.":
        third = next((number for number, part in enumerate(THIRDS) if part in rest), None)
        rest = rest.replace(THIRDS[third], FUSED) if third is not None else rest
    for one, other in INSIDE.get(theirs, ()):
        rest = rest.replace(other, one)
    return theirs + rest[1:-1], third


def dropped(name: str) -> bool:
    """Whether a tensor of DeepSeek's has no place in transformers' format."""
    return name.startswith(POOL) or name == COUNTER


# ---- shapes ----------------------------------------------------------------------------------------------------------


def shapes(config: JanusConfig) -> Shapes:
    """Names and shapes of the tensors of transformers' Janus; nothing is allocated."""
    with torch.device("meta"):
        model = JanusForConditionalGeneration(config)
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def original_shapes(config: JanusConfig) -> Shapes:
    """Names and shapes of the tensors that DeepSeek's code builds, dropped ones included."""
    found: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes(config).items():
        theirs, third = to_original(name)
        found[theirs] = shape if third is None else (3 * shape[0], *shape[1:])
    found["vision_model.vision_tower.pos_embed"] = (1, *found["vision_model.vision_tower.pos_embed"])
    return found | dict(_pool(config.vision_config)) | {COUNTER: (COUNTED,)}


def _pool(vision: JanusConfig) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The pooling head of timm's SigLIP (timm/layers/attention_pool.py): one learnt query, and an MLP."""
    width, inner = vision.hidden_size, int(vision.hidden_size * vision.mlp_ratio)
    yield f"{POOL}latent", (1, 1, width)
    for layer, out, into in (
        ("q", width, width),
        ("kv", 2 * width, width),
        ("proj", width, width),
        ("mlp.fc1", inner, width),
        ("mlp.fc2", width, inner),
    ):
        yield f"{POOL}{layer}.weight", (out, into)
        yield f"{POOL}{layer}.bias", (out,)
    yield from ((f"{POOL}norm.{part}", (width,)) for part in ("weight", "bias"))


def misfits(weights: Weights, expected: Shapes) -> list[str]:
    """A line for each tensor that is missing, misshapen or more than there should be; dropped ones may be anything."""
    found = {name: spec.shape for name, spec in weights.specs.items() if not dropped(name)}
    expected = {name: shape for name, shape in expected.items() if not dropped(name)}
    lines = [f"it lacks {name}" for name in sorted(expected.keys() - found.keys())]
    lines += [f"it has {name}, which no Janus has" for name in sorted(found.keys() - expected.keys())]
    return lines + [
        f"{name} is {list(found[name])}, not {list(expected[name])}"
        for name in sorted(found.keys() & expected.keys())
        if found[name] != expected[name]
    ]


# ---- views -----------------------------------------------------------------------------------------------------------


class View:
    """Weights under other names: each tensor is put together from rows of others, or is zero where it has no parts."""

    def __init__(self, weights: Weights, shapes: Shapes, parts: Mapping[str, list[Part]]) -> None:
        self._weights, self._parts = weights, parts
        plain = next(iter(weights.specs.values())).dtype
        self.specs: dict[str, Spec] = {}
        for name, shape in shapes.items():
            dtypes = [weights.specs[part.name].dtype for part in parts[name]] or [plain]
            self.specs[name] = Spec(shape, reduce(torch.promote_types, dtypes))  # adapters may widen one of three

    def rows(self, name: str, rows: slice) -> Tensor:
        """See Weights.rows."""
        spec = self.specs[name]
        if not self._parts[name]:
            return torch.zeros(rows.stop - rows.start, *spec.shape[1:], dtype=spec.dtype)
        if len(self._weights.specs[self._parts[name][0].name].shape) != len(spec.shape):
            return self._position(name)[rows]
        pieces, begin = [], 0
        for part in self._parts[name]:
            start, stop = max(rows.start - begin, 0), min(rows.stop - begin, part.rows)
            if start < stop:
                pieces.append(self._weights.rows(part.name, slice(part.first + start, part.first + stop)))
            begin += part.rows
        return torch.cat([piece.to(spec.dtype) for piece in pieces])

    def _position(self, name: str) -> Tensor:
        """The position embeddings, which are small, with the other number of dimensions."""
        (part,) = self._parts[name]
        whole = self._weights.rows(part.name, slice(0, part.rows))
        return whole.reshape(self.specs[name].shape)


def as_transformers(weights: Weights, config: JanusConfig) -> View:
    """DeepSeek's weights, which must fit `original_shapes`, as transformers'."""
    wanted = shapes(config)
    parts = {}
    for name, shape in wanted.items():
        theirs, third = to_original(name)
        rows = weights.specs[theirs].shape[0] if third is None else shape[0]
        parts[name] = [Part(theirs, (third or 0) * rows, rows)]
    return View(weights, wanted, parts)


def as_original(weights: Weights, config: JanusConfig) -> View:
    """transformers' weights, which must fit `shapes`, as DeepSeek's; what they lack is zero."""
    wanted = original_shapes(config)
    parts = {name: [Part(ours, 0, weights.specs[ours].shape[0]) for ours in to_transformers(name)] for name in wanted}
    return View(weights, wanted, parts)
