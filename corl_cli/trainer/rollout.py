"""Sampling every task for a batch of triplets, and keeping what was sampled for later reading."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.core.numbers import finite
from corl_cli.core.types import TASKS, Experience, RewardResult, Rollout, Samples, Sampling, Task, Triplet
from corl_cli.models.base import UnifiedPolicy

ROWS = "rows.jsonl"


@dataclass(frozen=True, kw_only=True)
class Recorded:
    """One task of a recorded step: what was sampled, how it was rewarded, and its advantages [N].

    `rows` [N] is False for rows that were left out of the loss; `lengths` [N] count the completions' tokens,
    `truncated` [N] marks those that the token limit cut off.
    """

    samples: Samples
    rewards: RewardResult
    advantages: Tensor
    rows: Tensor
    lengths: Tensor
    truncated: Tensor


def generate(
    policy: UnifiedPolicy, triplets: Sequence[Triplet], samplings: Mapping[Task, Sampling], key: str
) -> dict[Task, Rollout]:
    """G completions per triplet for each task."""
    return {task: policy.sample(task, triplets, sampling, key=key) for task, sampling in samplings.items()}


def targets(task: Task, triplets: Sequence[Triplet]) -> list[Image.Image] | list[str]:
    """What imitation makes more likely: the real image; the solution, or the bare answer in the format of one."""
    if task == "t2i":
        return [triplet.image for triplet in triplets]
    return [triplet.solution or f"<think></think><answer>{triplet.answer}</answer>" for triplet in triplets]


def record(folder: Path, batch: Mapping[Task, Experience]) -> None:
    """Write one step's rollouts: a line per sample in rows.jsonl with its rewards and advantage; images as PNG.

    A score that is missing is null. The folder appears whole, and takes the place of one that a kill left behind.
    """
    whole, folder = folder, folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for task, experience in batch.items():
        rollout, rewards = experience.rollout, experience.rewards
        assert rewards is not None, "targets to imitate are no rollouts"
        size = rollout.sampling.group_size
        for row, (triplet, output) in enumerate(zip(rollout.triplets, rollout.outputs, strict=True)):
            real = f"real-{row // size:04d}.png"
            if not (folder / real).exists():  # the same triplets for each task
                triplet.image.save(folder / real)
            if isinstance(output, Image.Image):
                name = f"{task}-{row:04d}.png"
                output.save(folder / name)
                output = name
            lines.append(
                {
                    "task": task,
                    "triplet": triplet.id,
                    "real": real,
                    "prompt": triplet.prompt,
                    "question": triplet.question,
                    "answer": triplet.answer,
                    "answer_type": triplet.answer_type,
                    "source": triplet.source,
                    "output": output,
                    "length": int(rollout.completion_mask[row].sum()),
                    "truncated": bool(rollout.truncated[row]),
                    "rewards": _numbers(rewards.parts, row),
                    "terms": _numbers(rewards.terms, row),
                    "notes": {name: notes[row] for name, notes in rewards.notes.items()},
                    "texts": {name: texts[row] for name, texts in rewards.texts.items()},
                    "total": finite(float(rewards.total[row])),
                    "advantage": float(experience.advantages[row]),
                    "counted": bool(experience.rows[row]),
                }
            )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / ROWS).write_text(text, encoding="utf-8")
    shutil.rmtree(whole, ignore_errors=True)
    folder.rename(whole)


def recorded_steps(rollouts: Path) -> list[int]:
    """The steps that a run's rollouts folder holds, in order."""
    names = (folder.name for folder in rollouts.glob("step-*") if folder.is_dir())
    return sorted(int(name.removeprefix("step-")) for name in names if name.removeprefix("step-").isdecimal())


def read(rollouts: Path, step: int, samplings: Mapping[Task, Sampling]) -> dict[Task, Recorded]:
    """What `record` wrote of one step; CorlError when it is not there or damaged."""
    folder = rollouts / f"step-{step:06d}"
    try:
        text = (folder / ROWS).read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.split("\n") if line]  # splitlines would split inside of strings
        recorded = {line["task"] for line in lines}  # where tasks take turns, one of them
        return {
            task: _read(folder, task, [line for line in lines if line["task"] == task], samplings[task])
            for task in TASKS
            if task in samplings and (task in recorded or not recorded)
        }
    except (ValueError, LookupError, OSError, TypeError) as error:
        if not folder.exists():
            steps = ", ".join(map(str, recorded_steps(rollouts))) or "none yet"
            raise CorlError(f"There are no rollouts of step {step} in {rollouts}.", f"Recorded: {steps}.") from error
        raise CorlError(
            f"The rollouts in {folder} are damaged: {_what(error)}.", f"Remove them: rm -r {folder}"
        ) from error


def _what(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"a row has no {error}"
    if isinstance(error, FileNotFoundError):
        return f"{error.filename} is missing"
    return str(error)


def _read(folder: Path, task: Task, lines: Sequence[Mapping[str, Any]], sampling: Sampling) -> Recorded:
    if not lines or len(lines) % sampling.group_size:
        raise ValueError(f"{len(lines)} {task} rows are no groups of {sampling.group_size}")
    real = {name: _image(folder / name) for name in dict.fromkeys(line["real"] for line in lines)}
    triplets = [
        Triplet(
            id=line["triplet"],
            image=real[line["real"]],
            **{name: line[name] for name in ("prompt", "question", "answer", "answer_type", "source")},
        )
        for line in lines
    ]
    outputs = [_image(folder / line["output"]) if task == "t2i" else line["output"] for line in lines]
    valid = torch.tensor([line["total"] is not None for line in lines])
    return Recorded(
        samples=Samples(task=task, triplets=triplets, outputs=outputs, sampling=sampling),
        rewards=RewardResult(
            task=task,
            total=_tensor([line["total"] for line in lines]),
            parts=_columns(lines, "rewards"),
            valid=valid,
            terms=_columns(lines, "terms"),
            notes={name: [line["notes"][name] for line in lines] for name in lines[0]["notes"]},
            texts={name: [line["texts"][name] for line in lines] for name in lines[0].get("texts", {})},
        ),
        advantages=_tensor([line["advantage"] for line in lines]),
        rows=torch.tensor([line["counted"] for line in lines]),
        lengths=torch.tensor([line["length"] for line in lines]),
        truncated=torch.tensor([line.get("truncated", False) for line in lines]),
    )


def _image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _numbers(columns: Mapping[str, Tensor], row: int) -> dict[str, float | None]:
    return {name: cast("float | None", finite(float(scores[row]))) for name, scores in columns.items()}


def _columns(lines: Sequence[Mapping[str, Any]], key: str) -> dict[str, Tensor]:
    return {name: _tensor([line[key][name] for line in lines]) for name in lines[0][key]}


def _tensor(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([math.nan if value is None else value for value in values])
