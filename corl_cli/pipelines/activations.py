"""How much memory a language model's layers take in a forward and backward pass, counted without taking it.

transformers' own layers, with adapters and checkpointing as in the recipe, run on fake tensors: shapes without values.
What is alive at once is counted storage by storage, for few layers, and extended to all of them: layers are alike.
"""

from __future__ import annotations

import json
import warnings
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

if TYPE_CHECKING:
    from transformers import JanusConfig

    from corl_cli.models.packing import Packing

LAYERS = (2, 3)  # that are run; the first and the last differ from those between


class Alive(TorchDispatchMode):
    """The most bytes that were alive at once of tensors made inside; `held` ones were there before."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known = WeakIdKeyDictionary({tensor.untyped_storage(): 0 for tensor in held})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
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

    Casts of weights to the compute precision and the logits are in it; the vision tower is not.
    """
    layers = config.text_config.num_hidden_layers
    learning = model.model_copy(update={"checkpoint": "", "attention": "sdpa"}).model_dump_json()
    few, more = (_count(config.to_json_string(), learning, layout, min(layers, few)) for few in LAYERS)
    forward, kept, backward = (a + (b - a) * max(0, layers - LAYERS[0]) for a, b in zip(few, more, strict=True))
    return max(forward, kept + logits(config, model, layout), backward)


def logits(config: JanusConfig, model: Model, layout: Layout) -> int:
    """Bytes of the logits that are held at once, and of the head's own cast and gradient (logprobs.token_logps).

    Logits and their gradient in the compute precision, the probabilities in float32.
    """
    from corl_cli.models.logprobs import CHUNK_LOGITS

    drawing, width = layout.task == "t2i", 2 if model.dtype == "bfloat16" else 4
    vocabulary = config.vq_config.num_embeddings if drawing else config.text_config.vocab_size
    rows = layout.prompts * layout.group_size * layout.new_tokens
    learns = not drawing and not model.lora and "language_model" in model.train
    head = vocabulary * config.text_config.hidden_size * (width + 4) if learns else 0
    return min(max(vocabulary, CHUNK_LOGITS), rows * vocabulary) * (4 + width) + head


@cache
def _count(config: str, model: str, layout: Layout, layers: int) -> tuple[int, int, int]:
    """Bytes alive in a pass through so many layers: the most in its forward half, what it keeps, the most after."""
    from corl_cli.models import packing

    learning = Model.model_validate_json(model)
    policy = _policy(json.loads(config), learning, layers)
    rows = layout.prompts * layout.group_size
    laid = packing.lay_out(
        torch.ones(layout.prompts, layout.prompt_tokens), torch.ones(rows, layout.new_tokens, dtype=torch.bool)
    )
    with FakeTensorMode(allow_non_fake_inputs=True):
        _fake(policy)
        held = [tensor for weight in policy.parameters() for tensor in (weight, weight.grad) if tensor is not None]
        with Alive(held) as alive:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=learning.dtype == "bfloat16"):
                states = _states(policy, layout, laid)
                forward, kept = alive.peak, alive.now
            alive.peak = alive.now
            if states.requires_grad:
                states.backward(torch.empty_like(states))
    return forward, kept, alive.peak


def _states(policy: Any, layout: Layout, laid: Packing) -> Tensor:
    """The hidden states of a packed micro-batch that predict its tokens, as the policy's own forward pass has them."""
    from corl_cli.models import packing

    language_model = policy.model.language_model
    ids = torch.zeros(layout.prompts * layout.group_size, layout.new_tokens - 1, dtype=torch.long)
    prompts = language_model.embed_tokens(torch.zeros(layout.prompts, layout.prompt_tokens, dtype=torch.long))
    embed = policy.prepare_embeddings_for_image_generation if layout.task == "t2i" else language_model.embed_tokens
    return laid.predicting(packing.run(language_model, laid.pack(prompts.float(), embed(ids)), laid))


def _policy(config: dict[str, Any], learning: Model, layers: int) -> nn.Module:
    """A Janus of these shapes with so many layers, on the device meta; what learns is as in training."""
    from transformers import JanusConfig, JanusForConditionalGeneration

    from corl_cli.models import lora, packing, parts

    config["text_config"] |= {"num_hidden_layers": layers}
    config["vision_config"] |= {"num_hidden_layers": 1}  # not run here
    with torch.device("meta"):
        policy = JanusForConditionalGeneration(JanusConfig(**config | {"tie_word_embeddings": False}))
        if learning.lora:
            lora.attach(policy, learning.lora, None)
    parts.prepare(policy, () if learning.lora else learning.train, getattr(torch, learning.dtype))
    language_model: Any = policy.model.language_model
    packing.install(language_model)
    if learning.gradient_checkpointing:
        with warnings.catch_warnings(action="ignore"):  # transformers gives it another name
            language_model.gradient_checkpointing_enable({"use_reentrant": False})
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
