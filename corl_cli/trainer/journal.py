"""What a run leaves behind while it goes on: metrics, held-out readings, samples, rollouts, checkpoints."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch.optim import Optimizer

from corl_cli.core.errors import Interrupted, UsageError
from corl_cli.core.numbers import finite
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir, writing
from corl_cli.core.types import TASKS, Experience, Task, Triplet
from corl_cli.trainer import album, checkpoint
from corl_cli.trainer.distributed import Strategy
from corl_cli.trainer.preflight import Identity
from corl_cli.trainer.probes import Probes, Reading, decisive, gain
from corl_cli.trainer.rollout import record

PICTURES = {"tensorboard": {"dataformats": "NHWC"}, "wandb": {}}  # trackers that take them, and their own arguments


class Display(Protocol):
    """Where a run shows itself while it goes on."""

    def say(self, line: str) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def readings(self, step: int, readings: Sequence[Reading]) -> None: ...


@dataclass(kw_only=True)
class Journal:
    """Writes a run directory from inside the loop. Only the main process writes; all take part in the probes."""

    run: RunDir
    recipe: Recipe
    accelerator: Accelerator
    strategy: Strategy
    optimizer: Optimizer
    probes: Probes | None
    samples: Sequence[Triplet]
    display: Display
    num_steps: int
    before: float = 0.0  # seconds that earlier processes spent on this run
    refresh: Callable[[], None] | None = None  # makes the run's page anew
    begun: float = field(default_factory=time.perf_counter)
    stop: int | None = None  # the signal that asked for an end

    def __enter__(self) -> Journal:
        """SIGTERM and the first Ctrl-C let the step finish and save; a second Ctrl-C stops at once."""
        self._handlers = {number: signal.signal(number, self._asked) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def begin(self, step: int) -> None:
        """Before the first step: readings and samples of the start. UsageError when nothing says which is best."""
        read = self.probes.rubrics if self.probes else {}
        if missing := [name for name in self.recipe.compared() if name.partition("/")[0] not in read]:
            raise UsageError(
                f"checkpoint.best: the held-out data have nothing to read {', '.join(missing)} of.",
                "Choose a reading of the other ability, or leave best out.",
            )
        if step == 0:
            self._probe(0)
            self._sample(0)
            self._refresh(0)

    def identity(self, step: int, identity: Identity, *, aloud: bool) -> None:
        """What a batch said of sampler and scorer before optimiser step `step` (from 1)."""
        if aloud:
            self.display.say(
                f"preflight {identity.task}: sampler and scorer agree to {identity.largest:.1e} nats a token "
                f"(mean {identity.mean:.1e})"
            )
        self._write({"step": step, "identity": asdict(identity)})

    def step(
        self, step: int, metrics: Mapping[str, float], batch: Mapping[Task, Experience], *, skipped: int = 0
    ) -> None:
        """After optimiser step `step` (from 1): log, and whatever is due; `skipped` is for the state."""
        due = {
            name: step % every == 0 or step == self.num_steps
            for name, every in {
                "probe": self.recipe.eval.probes.every if self.recipe.eval.probes else self.num_steps,
                "sample": self.recipe.tracking.samples_every,
                "rollout": self.recipe.tracking.rollouts_every if step > 1 else 1,  # drift is told from the start
                "save": self.recipe.checkpoint.every,
                "report": self.recipe.tracking.report_every,
            }.items()
        }
        metrics = {**metrics, "seconds": self.seconds}
        self._write({"step": step, **metrics})
        self.accelerator.log(metrics, step=step)
        self.display.step(step, metrics)
        self._warn(step, metrics, skipped)
        readings = self._probe(step) if due["probe"] else []
        if due["sample"]:
            self._sample(step)
        if due["rollout"] and self.recipe.train.method == "rl" and self.accelerator.is_main_process:
            with writing(self.run.rollouts):
                record(self.run.rollouts / f"step-{step:06d}", batch)
        asked = torch.tensor(int(self.stop is not None), device=self.accelerator.device)
        stopping = int(self.accelerator.reduce(asked)) > 0  # one process asked is all of them
        if due["save"] or stopping or (due["probe"] and self.recipe.compared()):
            self._save(checkpoint.State(step=step, seconds=self.seconds, skipped=skipped), readings)
        if (due["report"] and step < self.num_steps) or stopping:  # a run that ends makes its page by itself
            self._refresh(step)
        if stopping and step < self.num_steps:
            number = self.stop or signal.SIGTERM
            raise Interrupted(
                f"Stopped by {signal.Signals(number).name} after step {step} of {self.num_steps}; the state is saved.",
                f"Go on with --out {self.run.path} --resume",
                signal=number,
            )

    @property
    def seconds(self) -> float:
        """Seconds spent on this run so far."""
        return round(self.before + time.perf_counter() - self.begun, 3)

    def _probe(self, step: int) -> list[Reading]:
        if self.probes is None:
            return []
        begun = time.perf_counter()
        readings = self.probes.measure(self.strategy.actor, self.accelerator)
        spent = time.perf_counter() - begun
        for reading in readings:
            self._write({"step": step, "probe": asdict(reading)})
        self._write({"step": step, "time/probe": spent})
        self.accelerator.log({f"{r.task}/{r.label}@{r.temperature:g}": r.mean for r in readings}, step=step)
        self.display.readings(step, readings)
        return readings

    def _sample(self, step: int) -> None:
        if not self.samples or not self.accelerator.is_main_process:
            return
        rollouts = [
            self.strategy.actor.sample(
                task, self.samples, replace(self.recipe.sampling.of(task), group_size=album.EACH), key="sample"
            )
            for task in self.recipe.train.tasks
        ]
        look = album.Look(step=step, entries=album.entries(self.samples, rollouts))
        self._show(step, album.write(self.run.samples, look))

    def _refresh(self, step: int) -> None:
        if self.refresh and self.accelerator.is_main_process:
            begun = time.perf_counter()
            self.refresh()
            self._write({"step": step, "time/report": time.perf_counter() - begun})

    def _show(self, step: int, picture: Image.Image) -> None:
        """Give the samples to those trackers that take a batch of pictures."""
        for tracker in self.accelerator.trackers:
            if tracker.name in PICTURES:
                tracker.log_images({"samples": np.asarray(picture)[None]}, step=step, **PICTURES[tracker.name])

    def _save(self, state: checkpoint.State, readings: Sequence[Reading]) -> None:
        weights, optimizer = self.strategy.save(self.optimizer)
        if self.accelerator.is_main_process:
            state = replace(state, **self._worth(readings))
            policy, keep = self.strategy.actor, self.recipe.checkpoint.keep
            checkpoint.save(self.run.checkpoints, policy, weights, optimizer, state, keep)
        self.accelerator.wait_for_everyone()

    def _worth(self, readings: Sequence[Reading]) -> dict[str, Any]:
        """What a checkpoint's state says of these readings, so that the best can be told."""
        if not (now := decisive(readings, self.recipe)):
            return {}
        lines = [line["probe"] for line in self.run.read_metrics() if line["step"] == 0 and "probe" in line]
        start = decisive([Reading.of(line) for line in lines], self.recipe)
        return finite({"scores": {name: reading.mean for name, reading in now.items()}, "gain": gain(now, start)})

    def _warn(self, step: int, metrics: Mapping[str, float], skipped: int) -> None:
        if skipped:
            self.display.say(
                f"warning: step {step} is skipped, its gradient has norm {metrics['grad_norm']:.3g}; that makes "
                f"{skipped} in a row, and the run ends after more than {self.recipe.optim.max_skipped}"
            )
        for task in TASKS if step == 1 else ():
            if metrics.get(f"zero_variance/{task}", 0.0) > 0.9:
                self.display.say(
                    f"warning: {metrics[f'zero_variance/{task}']:.0%} of the {task} groups have equal rewards "
                    "throughout and teach nothing; harder or easier items, or a higher temperature, would help"
                )

    def _write(self, line: Mapping[str, Any]) -> None:
        if self.accelerator.is_main_process:
            self.run.append_metrics(finite(line))

    def _asked(self, number: int, _: FrameType | None) -> None:
        if self.stop is not None:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return  # a launcher passes SIGTERM on after a Ctrl-C: the first signal says why
        self.stop = number
        self.display.say(f"{signal.Signals(number).name}: finishing this step, then saving")
