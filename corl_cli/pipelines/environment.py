"""What an issue has to say of a machine: versions, hardware and settings, and nothing of whose machine it is."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from corl_cli import __version__
from corl_cli.core import versions

LIBRARIES = (
    "transformers",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "numpy",
    "pillow",
    "pydantic",
    "typer",
    "matplotlib",
    "torchvision",
    "peft",
    "flash-attn",
    "lpips",
    "pycocoevalcap",
    "lmms-eval",
)
SWITCHES = (  # numbers, names of devices and of backends: their values are told
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_LAUNCH_BLOCKING",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "NCCL_DEBUG",
    "NCCL_P2P_DISABLE",
    "NCCL_IB_DISABLE",
    "TOKENIZERS_PARALLELISM",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_DISABLE_XET",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
)
NAMES = (  # folders, addresses and secrets: only whether they are set
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_ENDPOINT",
    "HF_TOKEN",
    "HTTPS_PROXY",
    "JAVA_HOME",
    "CORENLP_HOME",
    "CORL_CACHE",
    "XDG_CACHE_HOME",
    "OPENAI_API_KEY",
    "WANDB_API_KEY",
    "LD_PRELOAD",
)
PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789,.:;_-")
LONGEST = 60  # characters of a value


def environment() -> dict[str, dict[str, Any]]:
    """Sections of facts; no keys, tokens, names of users or hosts, and no paths are among them.

    A torch that cannot be imported is told of, and what is known through it alone is None.
    """
    torch, hardware = _measured()
    return {
        "corl": {"version": __version__, **_installation(), "commit": _commit()},
        "machine": {
            "python": f"{platform.python_version()} ({platform.python_implementation()})",
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "libc": " ".join(platform.libc_ver()).strip() or None,
            "cpus": os.cpu_count(),
            **hardware,
        },
        "torch": torch,
        "libraries": {name: versions.installed(name) for name in LIBRARIES},
        "settings": {"hub_offline": constants.HF_HUB_OFFLINE, **_settings()},
    }


def _installation() -> dict[str, str]:
    try:
        written = distribution("corl").read_text("direct_url.json")
    except PackageNotFoundError:
        return {"installed": "no, run from its folder"}
    url = json.loads(written or "{}")
    if url.get("dir_info", {}).get("editable"):
        return {"installed": "editable"}
    kinds = {"vcs_info": "from a repository", "archive_info": "from an archive", "dir_info": "from a folder"}
    return {"installed": next((word for key, word in kinds.items() if key in url), "from an index")}


def _commit() -> str | None:
    """The commit of corl's own checkout, or the one that it was installed from; None where neither is known."""
    folder = Path(__file__).parents[2]
    if (folder / ".git").exists():
        return versions.commit(folder)
    try:
        url = json.loads(distribution("corl").read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return None
    commit = url.get("vcs_info", {}).get("commit_id")
    return str(commit) if commit else None


def _measured() -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts of torch, and those of the hardware that are read through it."""
    try:
        import torch

        from corl_cli.pipelines.machine import GIB, memory, processor
    except Exception as error:  # its message would hold paths
        state = f"does not import: {type(error).__name__}"
        return {"version": versions.installed("torch"), "state": state}, {"cpu": None, "memory_gib": None}
    found: dict[str, Any] = {
        "version": torch.__version__,
        "cuda_build": torch.version.cuda,
        "rocm_build": torch.version.hip,
        "threads": torch.get_num_threads(),
        "driver": _driver() if torch.cuda.is_available() else None,
    }
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    found["gpus"] = [f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in gpus]
    return found, {"cpu": processor(), "memory_gib": round(memory(torch.device("cpu")) / GIB, 1)}


def _driver() -> str | None:
    """The version of NVIDIA's driver, as its own program tells it."""
    ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return next(iter(done.stdout.split()), None)


def _settings() -> dict[str, str]:
    """Environment variables that change what corl does; those that are not set are left out."""
    told = {name: _plain(os.environ[name]) for name in SWITCHES if name in os.environ}
    return told | {name: "set" for name in NAMES if name in os.environ}


def _plain(value: str) -> str:
    """A value that is short and no path; of another only that it is set."""
    return value if value and len(value) <= LONGEST and set(value) <= PLAIN else "set"
