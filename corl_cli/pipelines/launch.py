"""Several processes: starting them, what accelerate was asked for, and one end for all of them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.distributed as dist

from corl_cli.core.errors import CorlError, Interrupted, UsageError
from corl_cli.core.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator

POLL = 0.25  # seconds between looks for another process' failure
PATIENCE = 10.0  # seconds that a failed process waits for the others to read why
WAIT = timedelta(days=1)  # processes wait so long for one that saves, rewards or scores; a dead one is noticed at once
SAVING = 600  # seconds from a signal until the launcher kills: a step has to finish and a checkpoint to be written


def relaunch(num_processes: int | None, argv: Sequence[str]) -> None:
    """Run `corl ARGV` in so many processes under accelerate and leave with their exit code; return where one is enough.

    accelerate's launcher runs in this process, so that a failure ends in a line and an exit code, not in the launcher's
    traceback. With --multi_gpu it goes torchrun's way on machines without GPUs too, where it would want MPI otherwise.
    The port is a free one, so that runs on one machine do not meet. UsageError when there are fewer GPUs, or when a
    launcher has started another number of processes already.
    """
    if num_processes is None:
        return
    there = started()
    if there and there != num_processes:
        raise UsageError(
            f"--num-processes {num_processes}: a launcher has started {there} already.",
            "Leave --num-processes to the launcher, or start corl without one.",
        )
    check_devices(num_processes)
    if num_processes > 1 and not there:
        _launch(num_processes, without(argv))


def join() -> Accelerator:
    """This process among the others of its launcher; corl casts and reduces by itself."""
    from accelerate import Accelerator
    from accelerate.utils import InitProcessGroupKwargs

    patient = InitProcessGroupKwargs(timeout=WAIT)
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no", kwargs_handlers=[patient])


def started() -> int:
    """How many processes a launcher has started, of which this is one; 0 where none has."""
    return int(os.environ.get("WORLD_SIZE", 0))


def check_devices(num_processes: int) -> None:
    """UsageError when so many processes on this machine are more than its GPUs; without GPUs any number will do."""
    gpus = torch.cuda.device_count()
    if gpus and num_processes > gpus:
        raise UsageError(
            f"--num-processes {num_processes}: this machine has {gpus} GPU{'s' * (gpus > 1)}.",
            f"Use --num-processes {gpus}, or several machines (recipes/slurm).",
        )


def without(argv: Sequence[str]) -> list[str]:
    """The words of a command line without --num-processes."""
    words = iter(argv)
    kept = []
    for word in words:
        if word == "--num-processes":
            next(words, None)
        elif not word.startswith("--num-processes="):
            kept.append(word)
    return kept


def _launch(num_processes: int, argv: Sequence[str]) -> NoReturn:
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    words = ["--multi_gpu", f"--num_processes={num_processes}", "--num_machines=1", "--machine_rank=0"]
    words += ["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]
    arguments = launch_command_parser().parse_args([*words, "--module", "corl_cli", *argv])
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING))
    logging.disable()  # the processes speak for themselves
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        process, failure = error.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            raise CorlError(
                f"Process {process} was ended from outside by {name}.",
                "If it was SIGKILL, memory may have run out. Go on from the last checkpoint with --resume.",
            ) from error
        raise SystemExit(failure.exitcode) from error
    except SignalException as error:
        raise SystemExit(128 + error.sigval) from error
    raise SystemExit(0)


def check(recipe: Recipe) -> None:
    """UsageError when accelerate's launcher or configuration asks for what the recipe does not say.

    Processes and machines are the launcher's to choose, the strategy is the recipe's; accelerate's own plugins and
    mixed precision stay out of it.
    """
    for name in ("DEEPSPEED", "MEGATRON_LM"):
        if _asked(name):
            raise UsageError(
                f"accelerate's configuration asks for {name.replace('_', '-').title()}, which corl does not use.",
                "Launch with --multi_gpu; to share out weights: --set distributed.strategy=fsdp",
            )
    if _asked("FSDP") and recipe.distributed.strategy != "fsdp":
        raise UsageError(
            f"accelerate's configuration asks for FSDP, the recipe for {recipe.distributed.strategy}.",
            "Shard as it says with --set distributed.strategy=fsdp, or launch with --multi_gpu.",
        )
    os.environ.pop("ACCELERATE_USE_FSDP", None)  # accelerate's plugin is for prepare(), which nothing here calls
    several = "MASTER_ADDR" in os.environ and os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    if several and not any(name in os.environ for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE")):
        raise UsageError(
            "accelerate was asked for several processes and started one: on CPUs it needs MPI for more.",
            "Use corl train … --num-processes N, or accelerate launch --multi_gpu, which needs no GPU.",
        )


def _asked(what: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{what}", "").lower() == "true"


@contextmanager
def watching() -> Iterator[None]:
    """Inside, a process that fails ends all of them, with its message and exit code in each.

    A thread of every process looks for a failure in the launcher's store, over a connection of its own: the main thread
    may be waiting for the failed process in a collective operation, which nothing else can end. Does nothing in a
    single process.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        yield
        return
    watch = Watch()
    try:
        yield
    except Interrupted:  # every process was asked, and has saved
        raise
    except BaseException as error:
        watch.stop()
        lost = "by peer" in str(error)  # gloo's words: connection closed, or reset, by peer
        watch.tell(cause := _lost() if lost else error, patience=POLL if lost else PATIENCE)
        if lost:
            raise cause from error
        raise
    finally:
        watch.stop()


class Watch:
    """One process' look at the others' failures."""

    def __init__(self) -> None:
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=30))
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # a restarted run finds the same store
        self.store = dist.PrefixStore(f"corl/{attempt}", store)
        self.processes = dist.get_world_size()
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Look no more."""
        self.done.set()
        self.thread.join()

    def tell(self, error: BaseException, patience: float) -> None:
        """Say why this process ends, unless another has said so before, and wait `patience` seconds at most until the
        others know.
        """
        own = json.dumps(_failure(error))
        try:
            self.store.compare_set("failure", "", own)
            read, until = self.store.add("read", 1), time.monotonic() + patience
            while read < self.processes and time.monotonic() < until:
                time.sleep(POLL / 4)
                read = self.store.add("read", 0)
        except dist.DistError:  # the launcher is gone, and its store with it
            return

    def _look(self) -> None:
        try:
            while not self.done.wait(POLL):
                if self.store.check(["failure"]):
                    failure = json.loads(self.store.get("failure"))
                    self.store.add("read", 1)
                    _leave(failure)
        except dist.DistError:
            _leave(_failure(CorlError("the launcher is gone.", "Go on from the last checkpoint with --resume.")))


def _lost() -> CorlError:
    return CorlError(
        "Another process of this run is gone and left no word.",
        "If it was killed, memory may have run out. Go on from the last checkpoint with --resume.",
    )


def _failure(error: BaseException) -> dict[str, Any]:
    found: dict[str, Any] = {"process": dist.get_rank(), "code": 1, "hint": None}
    if isinstance(error, CorlError):
        return found | {"message": error.message, "hint": error.hint, "code": error.exit_code}
    if isinstance(error, KeyboardInterrupt):
        return found | {"message": "interrupted", "code": 130}
    return found | {"message": f"{type(error).__name__}: {error}"}


def _leave(failure: dict[str, Any]) -> NoReturn:
    """End this process from a thread, whatever its main thread waits for."""
    hint = f"\nhint: {failure['hint']}" if failure["hint"] else ""
    print(f"error: process {failure['process']}: {failure['message']}{hint}", file=sys.stderr, flush=True)
    time.sleep(1)  # the failed process prints its own; a launcher ends it once any other has left
    if sys.__stderr__ is not None and sys.__stderr__.isatty():
        print(
            "\x1b[?25h", end="", file=sys.__stderr__, flush=True
        )  # a panel has hidden the cursor; sys.stderr is its own
    os._exit(failure["code"])
