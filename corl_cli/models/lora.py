"""Low-rank adapters (Hu et al. 2021) through peft and transformers' integration of it.

A folder of adapters holds adapter_config.json and adapter_model.safetensors. Its base is the checkpoint that the
configuration names, or weights in the folder itself where the adapters began on a merged model that is saved nowhere.
"""

from __future__ import annotations

import copy
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers.utils import find_adapter_config_file

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.recipe import Lora

Policy = TypeVar("Policy", bound=nn.Module)

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")  # of a Llama layer
NAME = "default"  # transformers' name of the one set of adapters
INSTALL = "Install it, in corl's folder: pip install '.[lora]'"
_VARIANTS = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save")


def check(spec: Lora) -> None:
    """UsageError when adapters as in the recipe cannot be made here."""
    if _peft() is None:
        raise UsageError("model.lora: peft is not installed.", INSTALL)
    unknown = [name for name in spec.targets if name not in TARGETS]
    if unknown:
        raise UsageError(
            f"model.lora.targets: {', '.join(unknown)}: no linear layer of the language model.",
            f"Choose among {', '.join(TARGETS)}.",
        )


def delta(a: Tensor, b: Tensor, alpha: float, rank: int) -> Tensor:
    """What an adapter adds to its weight: alpha / rank * b @ a in float32; a [rank, in], b [out, rank]."""
    with torch.autocast(a.device.type, enabled=False):
        return b.detach().float() @ a.detach().float() * (alpha / rank)


def base_of(path: str | Path) -> str:
    """Where the weights are that a checkpoint's configuration and adapters belong to: `path` but for adapters alone.

    CorlError when they are gone.
    """
    config = _config(path)
    if config is None or (Path(path) / "config.json").exists():
        return str(path)
    if _peft() is None:
        raise CorlError(f"{path} holds LoRA adapters, and peft is not installed.", INSTALL)
    base = str(config["base_model_name_or_path"])
    if Path(base).is_absolute() and not Path(base).exists():
        raise CorlError(
            f"{path} holds LoRA adapters for {base}, which is gone.",
            f"Put it back, or write its new place into {path}/adapter_config.json (base_model_name_or_path).",
        )
    return base


def attach(model: Any, spec: Lora, base: str | None) -> None:
    """Give the language model fresh adapters, which change nothing yet; they alone can learn then.

    `base` is where its own weights are saved; None when nowhere, so that they are saved with the adapters.
    """
    from peft import LoraConfig

    config = LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=rf"model\.language_model\..*\.({'|'.join(spec.targets)})",  # the vision tower has such names too
    )
    model.add_adapter(config, NAME)
    config.base_model_name_or_path = str(Path(base).resolve()) if base and Path(base).exists() else base


def attached(model: Any) -> bool:
    """Whether the model has adapters."""
    return bool(model._hf_peft_config_loaded)


def carries_base(model: Any) -> bool:
    """Whether the base of the model's adapters is saved nowhere else."""
    return attached(model) and model.peft_config[NAME].base_model_name_or_path is None


def is_adapter(name: str) -> bool:
    """Whether a tensor's name is that of an adapter."""
    return ".lora_" in name


def base_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Those of a model with adapters that are not theirs, named as without them."""
    return {name.replace(".base_layer.", "."): value for name, value in weights.items() if not is_adapter(name)}


def weight(layer: Any) -> Tensor:
    """The weight that a linear layer acts with: the base's and what adapters add to it, without a gradient."""
    base: Tensor = layer.weight.detach()
    if not hasattr(layer, "lora_A"):
        return base
    a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
    return base.float() + delta(a, b, layer.lora_alpha[NAME], layer.r[NAME])


def fold(model: Any) -> None:
    """Put the adapters into the weights and take them off."""
    for layer in _adapted(model).values():
        plain: nn.Linear = layer.base_layer
        plain.weight.data = weight(layer).to(plain.weight.dtype)
    _take_off(model)


def bare(policy: Policy) -> Policy:
    """The policy without its adapters, frozen: modules of its own on the very weights under the adapters.

    The adapters' updates never reach it, and it holds no parameter a second time.
    """
    shared = [*policy.parameters(), *policy.buffers()]
    copied = copy.deepcopy(policy, {id(tensor): tensor for tensor in shared})
    for model in [module for module in copied.modules() if getattr(module, "_hf_peft_config_loaded", False)]:
        _take_off(model)
    assert not any(parameter.requires_grad for parameter in copied.parameters()), "only adapters may learn"
    return copied.eval()


def _adapted(model: nn.Module) -> dict[str, Any]:
    """The layers with adapters, by name."""
    return {name: layer for name, layer in model.named_modules() if hasattr(layer, "lora_A")}


def _take_off(model: Any) -> None:
    """Leave the layers under the adapters in their places."""
    for name, layer in _adapted(model).items():
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer.base_layer)
    del model.peft_config
    model._hf_peft_config_loaded = False


def _peft() -> str | None:
    try:
        return version("peft")
    except PackageNotFoundError:
        return None


def _config(path: str | Path) -> dict[str, Any] | None:
    """The configuration of the adapters at `path`, None where there are none."""
    file = find_adapter_config_file(str(path))
    if file is None:
        return None
    config: dict[str, Any] = json.loads(Path(file).read_text(encoding="utf-8"))
    unread = [key for key in _VARIANTS if config.get(key)]
    if config.get("peft_type") != "LORA" or unread:
        what = ", ".join(unread) or str(config.get("peft_type"))
        raise CorlError(f"{path} holds adapters of a kind that corl does not read: {what}.", "Merge them with peft.")
    return config
