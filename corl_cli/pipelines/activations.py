"""How much memory a language model's layers take in a forward and backward pass, counted without taking it.

transformers' own layers, with adapters and checkpointing as in the recipe, run on fake tensors: shapes without values.
What is alive at once is counted storage by storage, for three layers, and extended to all of them: layers are alike.
Fake tensors are a CPU's, and so is the branch of attention that is counted (packing._causal): what a GPU's kernels hold
besides queries, keys and values is not in it.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from corl_cli.core.recipe import Model
from corl_cli.core.types import Task
from corl_cli.pipelines.costs import BYTES, head

if TYPE_CHECKING:
    from transformers import JanusConfig

    from corl_cli.models.packing import Packing

LAYERS = 3  # that are run; those between the first and the last are like the second
SEEING = ("vision_model", "aligner")  # parts that are run where one of them learns


class Alive(TorchDispatchMode):
    """The most bytes that were alive at once of tensors made inside; `held` ones were there before."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary({tensor.untyped_storage(): 0 for tensor in held})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.device):
            return out
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._see(tensor.untyped_storage())
        return out

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        nbytes = storage.nbytes()
        self._known[storage] = nbytes
        weakref.finalize(storage, self._free, nbytes)
        self.now += nbytes
        self.peak = max(self.peak, self.now)

    def _free(self, nbytes: int) -> None:
        self.now -= nbytes


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What one micro-batch of a task holds: `prompts` of `prompt_tokens`, each with a group of completions."""

    task: Task
    prompts: int
    group_size: int
    prompt_tokens: int
    new_tokens: int


def activations(config: JanusConfig, model: Model, layout: Layout) -> int:
    """Bytes of a micro-batch's forward and backward pass besides the weights and their gradients.

    Casts of weights to the compute precision and the logits are in it, and the vision tower where it or its aligner
    learns.
    """
    learning = model.model_copy(update={"checkpoint": "", "attention": "sdpa"}).model_dump_json()
    found = _count(config.to_json_string(), learning, layout)
    more = max(0, config.text_config.num_hidden_layers - LAYERS)
    return max(
        found.forward + more * found.written,
        found.kept + more * found.written + logits(config, model, layout),
        found.backward + more * found.read,
        found.end,
    )


def logits(config: JanusConfig, model: Model, layout: Layout) -> int:
    """Bytes of the logits that are held at once, and of the head's own cast and gradient (logprobs.token_logps).

    Logits and their gradient in the compute precision, the probabilities in float32. A frozen head holds few rows of
    them, with at most three more numbers each while they are worked on, and a gradient of each state.
    """
    from corl_cli.models.logprobs import CHUNK_LOGITS, rows_at_once

    drawing, width, full = layout.task == "t2i", BYTES[model.dtype], BYTES["float32"]
    vocabulary = config.vq_config.num_embeddings if drawing else config.text_config.vocab_size
    rows = layout.prompts * layout.group_size * layout.new_tokens
    if model.lora or ("generation_head" if drawing else "language_model") not in model.train:
        gradients = rows * config.text_config.hidden_size * full
        return min(rows, rows_at_once(vocabulary)) * vocabulary * (4 * full + 2 * width) + gradients
    held = min(max(vocabulary, CHUNK_LOGITS), rows * vocabulary)
    return (held + head(config, layout.task)) * (full + width)


@dataclass(frozen=True, kw_only=True)
class Counted:
    """Bytes alive in a pass through LAYERS: the most in its forward half, and what that keeps; the most in the backward
    half until the first layer's turn, and after that. `written` and `read` are those of one layer more, in each half.
    """

    forward: int
    kept: int
    backward: int
    end: int
    written: int
    read: int


class Marks:
    """What is alive when each layer has run, and when the gradient reaches each layer's output."""

    def __init__(self, alive: Alive, layers: Iterable[nn.Module]) -> None:
        self.alive = alive
        self.written: list[int] = []
        self.read: list[int] = []
        self.backward = 0
        self._hooks = [layer.register_forward_hook(self._ran) for layer in layers]

    def _ran(self, layer: nn.Module, args: Any, output: Any) -> None:
        out = output if isinstance(output, Tensor) else output[0]
        self.written.append(self.alive.now)
        if out.requires_grad:
            out.register_hook(self._reached)

    def _reached(self, gradient: Tensor) -> None:
        self.read.insert(0, self.alive.now)
        self.backward, self.alive.peak = max(self.backward, self.alive.peak), self.alive.now

    def end(self) -> None:
        """Mark no more: layers that are recomputed run again."""
        for hook in self._hooks:
            hook.remove()


@cache
def _count(config: str, model: str, layout: Layout) -> Counted:
    from corl_cli.models import packing

    learning = Model.model_validate_json(model)
    policy, fakes = _policy(config, model)
    rows = layout.prompts * layout.group_size
    laid = packing.lay_out(
        torch.ones(layout.prompts, layout.prompt_tokens), torch.ones(rows, layout.new_tokens, dtype=torch.bool)
    )
    held = [tensor for weight in policy.parameters() for tensor in (weight, weight.grad) if tensor is not None]
    with fakes, Alive(held) as alive:
        marks = Marks(alive, policy.model.language_model.layers)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=learning.dtype == "bfloat16"):
            states = _states(policy, learning, layout, laid)
            forward, kept = alive.peak, alive.now
        marks.end()
        alive.peak = alive.now
        if states.requires_grad:
            states.backward(torch.empty_like(states))
    return Counted(
        forward=forward,
        kept=kept,
        backward=marks.backward,
        end=alive.peak,
        written=_second(marks.written),
        read=_second(marks.read),
    )


def _second(marks: list[int]) -> int:
    """What the second layer adds to the first; nothing where there is none."""
    return marks[1] - marks[0] if len(marks) > 1 else 0


def _states(policy: Any, learning: Model, layout: Layout, laid: Packing) -> Tensor:
    """The hidden states of a packed micro-batch that predict its tokens, as the policy's own forward pass has them."""
    from corl_cli.models import packing

    language_model = policy.model.language_model
    ids = torch.zeros(layout.prompts * layout.group_size, layout.new_tokens - 1, dtype=torch.long)
    prompts = language_model.embed_tokens(torch.zeros(layout.prompts, layout.prompt_tokens, dtype=torch.long)).float()
    if layout.task == "mm2t" and set(SEEING) & set(learning.train):
        vision = policy.config.vision_config
        size = (layout.prompts, vision.num_channels, vision.image_size, vision.image_size)
        seen = policy.model.get_image_features(torch.empty(size, dtype=getattr(torch, learning.dtype))).pooler_output
        prompts = torch.cat([prompts[:, seen.shape[1] :], seen.to(prompts.dtype)], 1)
    embed = policy.prepare_embeddings_for_image_generation if layout.task == "t2i" else language_model.embed_tokens
    return laid.predicting(packing.run(language_model, laid.pack(prompts, embed(ids)), laid))


@cache
def _policy(config: str, model: str) -> tuple[Any, FakeTensorMode]:
    """A Janus of these shapes whose parts that are run are fake, and the mode that they are fake in."""
    learning = Model.model_validate_json(model)
    seeing = bool(set(SEEING) & set(learning.train))
    policy = _built(json.loads(config), learning, seeing)
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    with fakes:
        for name in ("language_model", "generation_embeddings", "generation_aligner", *(SEEING if seeing else ())):
            _fake(getattr(policy.model, name))
    return policy, fakes


def _built(config: dict[str, Any], learning: Model, seeing: bool) -> nn.Module:
    """A Janus of these shapes with LAYERS, on the device meta; what learns is as in training."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    from corl_cli.models import lora, packing, parts

    text = config["text_config"]
    text["num_hidden_layers"] = min(LAYERS, text["num_hidden_layers"])
    if not seeing:
        config["vision_config"]["num_hidden_layers"] = 1
    with torch.device("meta"):
        policy = JanusForConditionalGeneration(JanusConfig(**config | {"tie_word_embeddings": False}))
        if learning.lora:
            lora.attach(policy, learning.lora, None)
    parts.prepare(policy, () if learning.lora else learning.train, getattr(torch, learning.dtype))
    language_model: Any = policy.model.language_model
    packing.install(language_model)
    if learning.gradient_checkpointing:
        packing.checkpoint_layers(language_model, getattr(torch, learning.dtype))
    return policy.train()


def _fake(module: nn.Module) -> None:
    """Give the modules fake parameters of their shapes, and gradients to add to."""
    for part in module.modules():
        for name, old in part._parameters.items():
            if old is not None:
                new = nn.Parameter(torch.empty(old.shape, dtype=old.dtype), requires_grad=old.requires_grad)
                new.grad = torch.empty_like(new) if old.requires_grad else None
                part._parameters[name] = new
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
