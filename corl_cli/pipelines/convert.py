"""Converting a Janus between DeepSeek's checkpoints and transformers', tensor by tensor, and asking what came of it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from corl_cli.core.errors import CorlError, UsageError
from corl_cli.core.progress import Progress
from corl_cli.core.run_dir import check_room, check_vacant, whole_folder, writing
from corl_cli.models import loading, original, original_files, shards
from corl_cli.models.prompts import ChatPrompts
from corl_cli.models.shards import Saved, Spec, Weights
from corl_cli.pipelines.build import locate
from corl_cli.pipelines.merge_sources import Source, open_source
from corl_cli.scoring.checkpoints import requirement

if TYPE_CHECKING:
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusProcessor

Format = Literal["transformers", "deepseek"]
KINDS: dict[str, Format] = {original_files.KIND: "deepseek", "janus": "transformers"}
OTHER: dict[Format, Format] = {"deepseek": "transformers", "transformers": "deepseek"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROLES = ("<|User|>", "<|Assistant|>")
OLD_ROLES = ("User", "Assistant")  # DeepSeek's README on Janus-1.3B; its files do not say so
SENTENCE = "a red circle left of a blue square"
DRAWN = 4  # image tokens that are really drawn
LINES = 5  # tensors named when many do not fit
NEEDED = 1.2  # memory to ask a model, in sizes of its weights


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion that has passed its checks: `weights` is the source as the format it goes `to` has it."""

    source: Source
    to: Format
    out: Path
    config: JanusConfig
    processor: JanusProcessor
    weights: Weights
    specs: dict[str, Spec]

    @property
    def steps(self) -> int:
        """Steps of progress: tensors written, tensors compared, and the model that is asked."""
        return len(self.specs) + len(self.kept) + 1

    @property
    def kept(self) -> list[str]:
        """The source's tensors that the other format has too."""
        return [name for name in self.source.weights.specs if not original.dropped(name)]

    @property
    def dropped(self) -> list[str]:
        """The source's tensors that the other format has no place for."""
        return [name for name in self.source.weights.specs if original.dropped(name)]

    @property
    def zeros(self) -> list[str]:
        """Tensors that DeepSeek's code must find, never evaluates, and are zero because the source has none."""
        return [name for name in self.specs if original.dropped(name)]

    def plan(self) -> dict[str, Any]:
        """What is done, for people and scripts."""
        kinds = [spec.dtype for spec in self.specs.values()]
        return {
            "source": self.source.name,
            "from": OTHER[self.to],
            "to": self.to,
            "out": str(self.out),
            "tensors": len(self.specs),
            "parameters": sum(math.prod(spec.shape) for spec in self.specs.values()),
            "bytes": sum(spec.nbytes for spec in self.specs.values()),
            "dtype": _name(reduce(torch.promote_types, kinds)),
            "dropped": len(self.dropped),
            "zeros": len(self.zeros),
            "known_to_deepseek": original_files.at_home(original_files.config_to(self.config)),
        }


def lacking(name: str) -> bool:
    """Whether a source must be fetched from the hub first; CorlError when it is nowhere."""
    wanted = requirement("Janus checkpoint", _located(name)).wanted
    return wanted is not None and wanted.here() is None


def check(name: str, *, out: Path, to: Format | None = None, dtype: str | None = None) -> Conversion:
    """Fetch the source where it is not here, open it and compare it with what its configuration says that it has.

    UsageError when it is of another model, damaged or in the wanted format already, CorlError when the disk lacks room.
    """
    check_vacant(out)
    wanted = requirement("Janus checkpoint", _located(name)).wanted
    if wanted is not None and wanted.here() is None:
        wanted.get()
    source = open_source(name)
    said = _said(source)
    kind = KINDS.get(str(said.get("model_type")))
    if kind is None:
        raise UsageError(f"{name} is no Janus: its config.json says {said.get('model_type')}.", original_files.HINT)
    if to == kind:
        fold = f" Its adapters are folded by corl merge {name} --out {out}" if len(source.folders) > 1 else ""
        raise UsageError(f"{name} is in {to}'s format already.", f"Leave out --to, or give another model.{fold}")
    config, processor = _read_original(source, said) if kind == "deepseek" else _read(source)
    expected = original.original_shapes(config) if kind == "deepseek" else original.shapes(config)
    if lines := original.misfits(source.weights, expected):
        lines[LINES:] = [f"{len(lines) - LINES} more do not fit"] if len(lines) > LINES else []
        raise UsageError(
            f"{name} does not hold the weights that its config.json describes: {'; '.join(lines)}.",
            "Copy or fetch it again.",
        )
    view = original.as_transformers if kind == "deepseek" else original.as_original
    weights: Weights = view(source.weights, config)
    specs = {name: Spec(spec.shape, DTYPES[dtype] if dtype else spec.dtype) for name, spec in weights.specs.items()}
    check_room(out, sum(spec.nbytes for spec in specs.values()), "The converted model")
    return Conversion(
        source=source, to=OTHER[kind], out=out, config=config, processor=processor, weights=weights, specs=specs
    )


def carry_out(conversion: Conversion, progress: Progress) -> dict[str, Any]:
    """Write the converted checkpoint, read it again, ask it, and return what is known of it.

    Every tensor of the source is compared with what the new files hold, seen in the source's format: equal, or equal
    after rounding to the type asked for. The model is read by transformers and scores a sentence and a picture, and
    draws; where the memory is too small for that, `answers` is None. The folder is whole or not there. CorlError when
    something is not finite, not equal, or cannot be written.
    """
    job = conversion
    with whole_folder(job.out) as folder:
        with writing(job.out):
            shards.write(folder, job.specs, lambda name: _pieces(job, name, progress))
            _write_files(job, folder)
        _compare(job, Saved(folder), progress)
        answers = None
        if (free := _free_memory()) is None or NEEDED * job.plan()["bytes"] < free:
            answers = _ask(_load(job, folder), job.processor)
        progress.advance(note="asked")
    return job.plan() | {"equal": True, "answers": answers}


# ---- reading ---------------------------------------------------------------------------------------------------------


def _located(name: str) -> str:
    return str(Path(locate(name)).expanduser())


def _said(source: Source) -> dict[str, Any]:
    file = source.file("config.json")
    if file is None:
        raise UsageError(f"{source.name} has no config.json.", "Copy or fetch it again.")
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{file} cannot be read: {error}", "Copy or fetch it again.") from error
    return found


def _read_original(source: Source, said: dict[str, Any]) -> tuple[JanusConfig, JanusProcessor]:
    try:
        config = original_files.config_from(said)
    except UsageError as error:
        raise UsageError(f"{source.name} cannot be converted. {error.message}", error.hint) from error
    except Exception as error:  # transformers' own checks of a value, and what is not there
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{source.name} has a config.json that cannot be read: {reason}", "Copy it again.") from error
    old = re.search(r"janus-1\.3b", f"{source.name} {said.get('_name_or_path')}", re.IGNORECASE)
    processor = original_files.processor_from(source.folders[0], OLD_ROLES if old else ROLES)
    return original_files.with_tokens(config, processor), processor


def _read(source: Source) -> tuple[JanusConfig, JanusProcessor]:
    words = source.file("tokenizer.json")
    if words is None:
        raise UsageError(f"{source.name} has no tokenizer.json.", "Copy or fetch it again.")
    config = loading.read_config(source.folders[-1])
    try:
        original_files.config_to(config)
    except UsageError as error:
        raise UsageError(f"{source.name} cannot be converted. {error.message}", error.hint) from error
    try:
        return config, loading.read_processor(words.parent)
    except Exception as error:  # as many kinds as there are ways to be damaged
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UsageError(f"{words.parent} has no processor that can be read: {reason}", "Copy it again.") from error


# ---- writing ---------------------------------------------------------------------------------------------------------


def _pieces(job: Conversion, name: str, progress: Progress) -> Iterator[Tensor]:
    spec = job.specs[name]
    for rows in spec.pieces():
        piece = job.weights.rows(name, rows)
        if not piece.isfinite().all():
            raise CorlError(f"{job.source.name} holds NaN or infinity in {name}.", "Give another checkpoint.")
        yield piece.to(spec.dtype)
    progress.advance(note=name)


def _write_files(job: Conversion, folder: Path) -> None:
    dtype = job.plan()["dtype"]
    if job.to == "transformers":
        job.config.architectures, job.config.dtype = ["JanusForConditionalGeneration"], dtype
        for part in (job.config, original_files.generation_from(job.processor), job.processor):
            part.save_pretrained(folder)
        return
    config = original_files.config_to(job.config) | {"torch_dtype": dtype}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    original_files.save_original(job.processor, folder)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _compare(job: Conversion, written: Weights, progress: Progress) -> None:
    """CorlError unless the new files, seen in the source's format, hold the source's tensors."""
    back = original.as_original if job.to == "transformers" else original.as_transformers
    found: Weights = back(written, job.config)
    for name in job.kept:
        for rows in job.source.weights.specs[name].pieces():
            value = found.rows(name, rows)
            if not torch.equal(value, job.source.weights.rows(name, rows).to(value.dtype)):
                raise CorlError(f"{name} was written as other numbers than were read.", "Check the disk of --out.")
        progress.advance(note=name)


def _load(job: Conversion, folder: Path) -> JanusForConditionalGeneration:
    """The new checkpoint as transformers reads it; one of DeepSeek's through the names and the configuration again."""
    from transformers import JanusForConditionalGeneration
    from transformers.utils import logging

    if job.to == "transformers":
        place: Path | None = folder
        options: dict[str, Any] = {"dtype": "auto"}
    else:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config = original_files.with_tokens(
            original_files.config_from(said), original_files.processor_from(folder, ROLES)
        )
        view = original.as_transformers(Saved(folder), config)
        place = None
        options = {
            "config": config,
            "dtype": getattr(torch, said["torch_dtype"]),
            "state_dict": {name: view.rows(name, slice(0, spec.shape[0])) for name, spec in view.specs.items()},
        }
    logging.disable_progress_bar()
    model, report = JanusForConditionalGeneration.from_pretrained(place, output_loading_info=True, **options)
    if lost := sorted(map(str, {*report["missing_keys"], *report["mismatched_keys"], *report["unexpected_keys"]})):
        raise CorlError(f"transformers reads another model from what was written: {', '.join(lost[:LINES])}.")
    return model.eval()


@torch.inference_mode()
def _ask(model: JanusForConditionalGeneration, processor: JanusProcessor) -> dict[str, float]:
    """Nats per token of a sentence alone and behind a picture, beside those of guessing; an image is drawn as well.

    CorlError when anything is not finite.
    """
    prompts = ChatPrompts(processor, model.config.vision_config.num_image_tokens)
    words = processor.tokenizer(SENTENCE, return_tensors="pt")
    text = _nats(model(**{key: words[key] for key in ("input_ids", "attention_mask")}).logits, words.input_ids)
    ids, mask, inside = prompts.caption([SENTENCE])
    side = model.config.vision_config.image_size
    shades = torch.linspace(-1, 1, side, dtype=model.dtype).expand(1, 3, side, side)
    picture = _nats(model(input_ids=ids, attention_mask=mask, pixel_values=shades).logits, ids, inside)
    answers = {"text": text, "picture": picture, "guess": math.log(model.config.text_config.vocab_size)}
    if not (_draw(model, prompts).isfinite().all() and all(map(math.isfinite, answers.values()))):
        raise CorlError("The converted model gives NaN or infinity.", "Check that the source is sound.")
    return {key: round(value, 3) for key, value in answers.items()}


def _nats(logits: Tensor, ids: Tensor, scored: Tensor | None = None) -> float:
    """Mean nats per token of ids [1, T] under logits [1, T, V]; of those in `scored` alone, if it is given."""
    losses = torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="none")
    return float((losses if scored is None else losses[scored[0, 1:]]).mean())


def _draw(model: JanusForConditionalGeneration, prompts: ChatPrompts) -> Tensor:
    """The pixels [1, H, W, 3] of an image whose tokens are DRAWN greedy ones, over and over."""
    janus = model.model
    states = janus.language_model.get_input_embeddings()(prompts.draw([SENTENCE])[0])
    tokens: list[Tensor] = []
    for _ in range(DRAWN):
        hidden = janus.language_model(inputs_embeds=states).last_hidden_state[:, -1]
        tokens.append(janus.generation_head(hidden).argmax(-1))
        drawn = janus.generation_aligner(janus.generation_embeddings(tokens[-1]))
        states = torch.cat([states, drawn[:, None]], 1)
    count = model.config.vq_config.num_patches**2
    image: Tensor = model.decode_image_tokens(torch.stack(tokens, 1).repeat(1, -(-count // DRAWN))[:, :count])
    return image


def _free_memory() -> float | None:
    """Bytes that Linux can still give; None where it does not tell."""
    try:
        found = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    except OSError:
        return None
    return int(found[1]) * 1024.0 if found else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
