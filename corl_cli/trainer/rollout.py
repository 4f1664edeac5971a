"""Sampling every task for a batch of triplets, and keeping what was sampled for later reading."""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from corl_cli.core.types import Experience, Rollout, Sampling, Task, Triplet
from corl_cli.models.base import UnifiedPolicy


def generate(
    policy: UnifiedPolicy, triplets: Sequence[Triplet], samplings: Mapping[Task, Sampling], key: str
) -> dict[Task, Rollout]:
    """G completions per triplet for each task."""
    return {task: policy.sample(task, triplets, sampling, key=key) for task, sampling in samplings.items()}


def record(folder: Path, batch: Mapping[Task, Experience]) -> None:
    """Write one step's rollouts: a line per sample in rows.jsonl with its rewards and advantage; drawings as PNG.

    A score that is missing is null. The folder appears whole, and takes the place of one that a kill left behind.
    """
    whole, folder = folder, folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    lines = []
    for task, experience in batch.items():
        rollout, rewards = experience.rollout, experience.rewards
        for row, (triplet, output) in enumerate(zip(rollout.triplets, rollout.outputs, strict=True)):
            if isinstance(output, Image.Image):
                name = f"{task}-{row:04d}.png"
                output.save(folder / name)
                output = name
            lines.append(
                {
                    "task": task,
                    "triplet": triplet.id,
                    "prompt": triplet.prompt if task == "t2i" else triplet.question,
                    "answer": triplet.answer,
                    "output": output,
                    "rewards": {name: finite(float(scores[row])) for name, scores in rewards.parts.items()},
                    "notes": {name: notes[row] for name, notes in rewards.notes.items()},
                    "total": finite(float(rewards.total[row])),
                    "advantage": float(experience.advantages[row]),
                }
            )
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    shutil.rmtree(whole, ignore_errors=True)
    folder.rename(whole)


def finite(value: Any) -> Any:
    """JSON has no NaN: a number that is missing is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
