"""Weights on disk, tensor by tensor: read by rows, from torch's files and adapters too, and written as they come."""

from __future__ import annotations

import json
import math
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from corl_cli.core.errors import UsageError
from corl_cli.core.run_dir import writing
from corl_cli.models import lora

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
PICKLED = "pytorch_model.bin"  # the name of older checkpoints
ADAPTERS = "adapter_config.json"  # marks a folder of adapters
POINTER = b"version https://git-lfs"  # how a file begins that Git LFS has not fetched
AGAIN = "Copy or fetch it again."
SHARD_BYTES = 2_000_000_000
PIECE = 1 << 17  # entries read at once: few enough to stay in the processor's cache
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


class Spec(NamedTuple):
    """Shape and type of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def pieces(self) -> Iterator[slice]:
        """Its rows, as many at once as have PIECE entries; a scalar is one row."""
        rows = self.shape[0] if self.shape else 1
        step = max(1, PIECE * rows // max(1, math.prod(self.shape)))
        return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class Weights(Protocol):
    """Tensors by name that need not fit into memory."""

    @property
    def specs(self) -> Mapping[str, Spec]:
        """Shape and type of each."""

    def rows(self, name: str, rows: slice) -> Tensor:
        """Some rows of a tensor, in its own type."""


class Saved:
    """The weights in a folder, one file or several with an index: safetensors, or else pytorch_model.bin.

    UsageError when the folder has none, lacks a shard, or holds a file that is damaged or of another kind.
    """

    def __init__(self, folder: Path) -> None:
        self._places: dict[str, tuple[Path, int]] = {}  # the file of each tensor, and where in it its bytes begin
        self.specs: dict[str, Spec] = {}
        for file in _files(folder):
            for name, spec, begin in _header(file) if file.suffix == ".safetensors" else _pickled(file):
                self.specs[name] = spec
                self._places[name] = file, begin

    def rows(self, name: str, rows: slice) -> Tensor:
        """See Weights.rows."""
        (path, begin), spec = self._places[name], self.specs[name]
        row = spec.nbytes // (spec.shape[0] if spec.shape else 1)
        values = bytearray(row * (rows.stop - rows.start))
        with path.open("rb") as file:
            file.seek(begin + row * rows.start)
            file.readinto(values)
        shape = (rows.stop - rows.start, *spec.shape[1:]) if spec.shape else ()
        return torch.frombuffer(values, dtype=spec.dtype).view(shape)


class Adapted:
    """Weights with the change of a LoRA checkpoint on top, W + alpha / rank B A in float32.

    A narrower type would round small changes away. UsageError when the adapters are of other weights, or are no LoRA.
    """

    def __init__(self, folder: Path, base: Weights) -> None:
        self.base = base
        self._alpha = float(read_json(folder / ADAPTERS)["lora_alpha"])
        self._factors: dict[str, tuple[Tensor, Tensor]] = {}
        opened = _open(folder / "adapter_model.safetensors")
        found = set(opened.keys())
        odd = {key for key in found if not key.endswith((".lora_A.weight", ".lora_B.weight"))}
        for key in found - odd:
            if ".lora_B." in key:
                continue
            a, b = opened.get_tensor(key), opened.get_tensor(key.replace(".lora_A.", ".lora_B."))  # [r, in], [out, r]
            name = key.removeprefix("base_model.model.").replace(".lora_A.", ".")
            if name not in base.specs or base.specs[name].shape != (len(b), a.shape[1]):
                raise UsageError(
                    f"{folder} adapts {name}, which the weights it stands on lack or have in another shape."
                )
            self._factors[name] = a, b
        if odd:
            raise UsageError(f"{folder} holds {min(odd)}, which is no LoRA.", "Merge it with peft's merge_and_unload.")
        self.specs = {
            name: Spec(spec.shape, torch.promote_types(spec.dtype, torch.float32)) if name in self._factors else spec
            for name, spec in base.specs.items()
        }

    def rows(self, name: str, rows: slice) -> Tensor:
        """See Weights.rows."""
        values = self.base.rows(name, rows)
        if name not in self._factors:
            return values
        a, b = self._factors[name]
        return values + lora.delta(a, b[rows], self._alpha, len(a))


def write(folder: Path, specs: Mapping[str, Spec], pieces: Callable[[str], Iterable[Tensor]]) -> None:
    """Write tensors to shards of at most SHARD_BYTES, or one larger tensor, with transformers' index if there are two.

    `pieces` gives the rows of a tensor in order, in its type. The files are written front to back, so that no tensor
    need be whole in memory; safetensors' own writer takes whole files.
    """
    shards = _shards(specs)
    names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
    names = names if len(shards) > 1 else [WEIGHTS]
    for file, shard in zip(names, shards, strict=True):
        _write(folder / file, {name: specs[name] for name in shard}, pieces)
    if len(shards) > 1:
        weight_map = {name: file for file, shard in zip(names, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(spec.nbytes for spec in specs.values())}, "weight_map": weight_map}
        with writing(folder, then="try again"):
            (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _shards(specs: Mapping[str, Spec]) -> list[list[str]]:
    """Names in order, as many to a shard as fit; wide types come first in each, so that all are aligned."""
    shards: list[list[str]] = [[]]
    size = 0
    for name in sorted(specs):
        if shards[-1] and size + specs[name].nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += specs[name].nbytes
    return [sorted(shard, key=lambda name: -specs[name].dtype.itemsize) for shard in shards]


def _write(path: Path, specs: Mapping[str, Spec], pieces: Callable[[str], Iterable[Tensor]]) -> None:
    """One file: the header's length in 8 bytes, the header as JSON, padded to 8 bytes, then the tensors' bytes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, spec in specs.items():
        offsets = [offset, offset + spec.nbytes]
        header[name] = {"dtype": CODES[spec.dtype], "shape": list(spec.shape), "data_offsets": offsets}
        offset += spec.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with writing(path, then="try again"), path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in specs:
            for piece in pieces(name):
                file.write(raw(piece))
        assert file.tell() == 8 + len(text) + offset, f"{path.name}: pieces do not make up their tensors"
        file.flush()
        os.fsync(file.fileno())


def raw(tensor: Tensor) -> bytes:
    """A tensor's bytes, row-major."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _files(folder: Path) -> list[Path]:
    for name in (WEIGHTS, PICKLED):
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            files = sorted({folder / shard for shard in read_json(index).get("weight_map", {}).values()})
            lost = [file.name for file in files if not file.is_file()]
            if files and not lost:
                return files
            raise UsageError(f"{folder} lacks {', '.join(lost) or 'its shards'}.", AGAIN)
    raise UsageError(f"{folder} holds no weights ({WEIGHTS}).", "Give a corl run, or the folder of a checkpoint.")


def _header(file: Path) -> Iterator[tuple[str, Spec, int]]:
    """The tensors in a file, and where the bytes of each begin; safetensors itself checks that the file is whole.

    Its own reader maps the whole file into memory, and keeps what it has read.
    """
    _open(file)
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header: dict[str, Any] = json.loads(opened.read(length))
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in DTYPES:
            raise UsageError(f"{file}: {name} is {entry['dtype']}, a type that corl does not read.")
        spec = Spec(tuple(entry["shape"]), DTYPES[entry["dtype"]])
        yield name, spec, 8 + length + entry["data_offsets"][0]


def _pickled(file: Path) -> Iterator[tuple[str, Spec, int]]:
    """The same of a file of torch.save, a zip that compresses nothing; no code in it is run.

    Under fake tensors torch reads the names and notes where the bytes are; mapped ones would stay in memory once read.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    _check_content(file)
    try:
        with FakeTensorMode():
            found = torch.load(file, weights_only=True)
    except pickle.UnpicklingError as error:  # torch's words advise to run what is in it
        raise UsageError(f"{file} cannot be read: it is damaged, or holds more than tensors.", AGAIN) from error
    except Exception as error:  # zipfile and torch have errors of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{file} cannot be read: {reason}", AGAIN) from error
    for name, tensor in found.items() if isinstance(found, dict) else [("it", found)]:
        begin = getattr(tensor.untyped_storage(), "_checkpoint_offset", None) if isinstance(tensor, Tensor) else None
        if begin is None or not tensor.is_contiguous() or tensor.dtype not in CODES:
            raise UsageError(
                f"{file}: {name} is no plain tensor that can be read piece by piece.",
                "Load the file with torch.load, and save its tensors with safetensors' save_file.",
            )
        spec = Spec(tuple(tensor.shape), tensor.dtype)
        yield name, spec, begin + tensor.storage_offset() * spec.dtype.itemsize


def _open(file: Path) -> Any:
    _check_content(file)
    try:
        return safe_open(file, framework="pt")
    except Exception as error:  # safetensors has an error of its own, and OSError
        raise UsageError(f"{file} cannot be read: {str(error).splitlines()[0]}", AGAIN) from error


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; UsageError where there is none."""
    _check_content(file)
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} cannot be read: {error}", AGAIN) from error
    if not isinstance(found, dict):
        raise UsageError(f"{file} cannot be read: it holds no JSON object.", AGAIN)
    return found


def _check_content(file: Path) -> None:
    """UsageError for a file that is not there, cannot be read, is empty, or only points at what it should hold."""
    try:
        with file.open("rb") as opened:
            begin = opened.read(len(POINTER))
    except FileNotFoundError as error:
        raise UsageError(f"{file.parent} has no {file.name}.", AGAIN) from error
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.", AGAIN) from error
    if not begin:
        raise UsageError(f"{file} cannot be read: it is empty.", AGAIN)
    if begin == POINTER:
        raise UsageError(
            f"{file} is a pointer of Git LFS, not the file itself.", "Fetch it with git lfs pull, or with hf download."
        )
