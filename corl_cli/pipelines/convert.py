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
from corl_cli.core.requirements import Wanted
from corl_cli.core.run_dir import check_room, check_vacant, whole_folder, writing
from corl_cli.models import loading, original, original_config, original_files, shards
from corl_cli.models.prompts import ChatPrompts
from corl_cli.models.shards import Saved, Spec, Weights
from corl_cli.pipelines.merge_sources import Source, at_hand, open_source

if TYPE_CHECKING:
    from transformers import JanusConfig, JanusForConditionalGeneration, JanusProcessor

Format = Literal["transformers", "deepseek"]
KINDS: dict[str, Format] = {original_config.KIND: "deepseek", "janus": "transformers"}
NAMES: dict[Format, str] = {"transformers": "transformers'", "deepseek": "DeepSeek's"}
OTHER: dict[Format, Format] = {"deepseek": "transformers", "transformers": "deepseek"}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
ROLES = {  # of the two speakers, in DeepSeek's README; the files do not say them
    "janus-pro": ("<|User|>", "<|Assistant|>"),
    "janus-1.3b": ("User", "Assistant"),
}
SENTENCE = "a red circle left of a blue square"
DRAWN = 4  # image tokens that are really drawn
LINES = 5  # tensors named when many do not fit
NEEDED = 1.2  # memory to ask a model, in sizes of its weights


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """A conversion that has passed its checks: `weights` is the source as the format it goes `to` has it.

    `described` is the configuration in DeepSeek's words, and `template` what its chat template was taken from.
    """

    source: Source
    to: Format
    out: Path
    config: JanusConfig
    processor: JanusProcessor
    described: dict[str, Any]
    template: Literal["files", "name", "guess"]
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

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors written."""
        return sum(spec.nbytes for spec in self.specs.values())

    @property
    def dtype(self) -> str:
        """The type that holds all the tensors written."""
        kinds = [spec.dtype for spec in self.specs.values()]
        return str(reduce(torch.promote_types, kinds)).removeprefix("torch.")

    def plan(self) -> dict[str, Any]:
        """What is done, for people and scripts."""
        return {
            "source": self.source.name,
            "from": OTHER[self.to],
            "to": self.to,
            "out": str(self.out),
            "tensors": len(self.specs),
            "parameters": sum(math.prod(spec.shape) for spec in self.specs.values()),
            "bytes": self.nbytes,
            "dtype": self.dtype,
            "dropped": len(self.dropped),
            "zeros": len(self.zeros),
            "known_to_deepseek": original_config.at_home(self.described),
            "prompt": original_files.prompt(self.processor, "WORDS"),
            "prompt_from": self.template,
        }


def check(
    name: str, *, out: Path, to: Format | None = None, dtype: str | None = None, fetch: bool = True
) -> Conversion:
    """Fetch the source where it is not here, open it and compare it with what its configuration says that it has.

    UsageError when it is of another model, damaged, in the wanted format already, or not here and not to be fetched;
    CorlError when the disk lacks room.
    """
    check_vacant(out)
    if isinstance(wanted := at_hand(name), Wanted):
        if not fetch:
            raise UsageError(f"{name} is not here: a dry run fetches nothing.", f"Fetch it with hf download {name}")
        wanted.get()
    source = open_source(name)
    said = shards.read_json(source.file("config.json") or source.folders[0] / "config.json")
    kind = KINDS.get(str(said.get("model_type")))
    if kind is None:
        raise UsageError(f"{name} is no Janus: its config.json says {said.get('model_type')}.", original_config.HINT)
    if to == kind:
        fold = f" Its adapters are folded by corl merge {name} --out {out}" if len(source.folders) > 1 else ""
        raise UsageError(f"{name} is in {NAMES[to]} format already.", f"Leave out --to, or give another model.{fold}")
    config, processor = _read(source, said, kind)
    described = original_config.config_to(config)
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
    conversion = Conversion(
        source=source,
        to=OTHER[kind],
        out=out,
        config=config,
        processor=processor,
        described=described,
        template=_template(source, said, processor),
        weights=weights,
        specs=specs,
    )
    check_room(out, conversion.nbytes, "The converted model")
    return conversion


def carry_out(conversion: Conversion, progress: Progress) -> dict[str, Any]:
    """Write the converted checkpoint, read it again, ask it, and return what is known of it.

    Every tensor of the source is compared with what the new files hold, seen in the source's format: equal, or equal
    after rounding to the type asked for. The model is read by transformers and scores a sentence and a picture, and
    draws; where the memory is too small for that, `answers` is None. The folder is whole or not there. CorlError when
    something is not finite, not equal, or cannot be written.
    """
    job = conversion
    with whole_folder(job.out) as folder:
        with writing(job.out, then="try again"):
            shards.write(folder, job.specs, lambda name: _pieces(job, name, progress))
            _write_files(job, folder)
        _compare(job, Saved(folder), progress)
        answers = None
        if (free := _free_memory()) is None or NEEDED * job.nbytes < free:
            answers = _ask(_load(job, folder), job.processor)
        progress.advance(note="asked")
    return job.plan() | {"equal": True, "answers": answers}


# ---- reading ---------------------------------------------------------------------------------------------------------


def _read(source: Source, said: dict[str, Any], kind: Format) -> tuple[JanusConfig, JanusProcessor]:
    """transformers' configuration and processor of a source of either format, which DeepSeek's words can describe."""
    words = source.file("tokenizer.json") or source.folders[0] / "tokenizer.json"
    try:
        shards.read_json(words)
        if kind == "transformers":
            config, processor = loading.read_config(source.folders[-1]), loading.read_processor(words.parent)
            original_files.check_images(processor.image_processor.to_dict())
        else:
            config = original_config.config_from(said)
            roles = next(iter(_named(source, said)), "janus-pro")
            processor = original_files.processor_from(words.parent, ROLES[roles])
            original_files.with_tokens(config, processor)
        original_config.config_to(config)
    except UsageError as error:
        raise UsageError(f"{source.name} cannot be converted: {error.message}", error.hint) from error
    except CorlError:
        raise
    except Exception as error:  # transformers' own checks of a value, and what is not there
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"its files lack {error}" if isinstance(error, KeyError) else lines[-1].strip()
        raise UsageError(f"{source.name} cannot be converted: {reason}", "Copy it again, or mend it.") from error
    return config, processor


def _named(source: Source, said: dict[str, Any]) -> list[str]:
    """Which model of DeepSeek's the source's name tells that it is, or was trained from; at most one."""
    found = {name for name in ROLES if name in f"{source.name} {said.get('_name_or_path')}".lower()}
    return list(found) if len(found) == 1 else []


def _template(source: Source, said: dict[str, Any], processor: JanusProcessor) -> Literal["files", "name", "guess"]:
    """What says how the model is prompted."""
    if KINDS[said["model_type"]] == "transformers" or original_files.own_template(source.folders[0], processor):
        return "files"
    return "name" if _named(source, said) else "guess"


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
    if job.to == "transformers":
        job.config.architectures, job.config.dtype = ["JanusForConditionalGeneration"], job.dtype
        for part in (job.config, original_files.generation_config(job.processor.tokenizer), job.processor):
            part.save_pretrained(folder)
        return
    config = job.described | {"torch_dtype": job.dtype}
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
            original_config.config_from(said), original_files.processor_from(folder, ROLES["janus-pro"])
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
    from PIL import Image

    prompts = ChatPrompts(processor, model.config.vision_config.num_image_tokens)
    words = processor.tokenizer(SENTENCE, return_tensors="pt")
    text = _nats(model(**{key: words[key] for key in ("input_ids", "attention_mask")}).logits, words.input_ids)
    ids, mask, inside = prompts.caption([SENTENCE])
    shades = processor.image_processor(Image.linear_gradient("L").convert("RGB"), return_tensors="pt").pixel_values
    seen = model(input_ids=ids, attention_mask=mask, pixel_values=shades.to(model.dtype))
    picture = _nats(seen.logits, ids, inside)
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
