"""What runs beside lmms-eval: reads one job in JSON from stdin, writes records in JSON to stdout, line by line."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from corl_cli.core import evaluation
from corl_cli.core.errors import CorlError
from corl_cli.core.run_dir import writing
from corl_cli.eval.judge import Judge, JudgeError
from corl_cli.eval.understanding import data, mends
from corl_cli.eval.understanding.benchmark import Understanding
from corl_cli.eval.understanding.extraction import extract
from corl_cli.eval.understanding.judging import Desk
from corl_cli.eval.understanding.tasks import LmmsTask
from corl_cli.models import torchvision_guard

Record = dict[str, Any]
GAP = 16  # pixels between images that share a picture
# One writes a file for a server; the other looks for tags in what corl hands over, not in what the policy wrote.
NO_NUMBERS = ("submission", "format_score")


class Session:
    """A job with its task: what all kinds of jobs have in common."""

    def __init__(self, job: Record) -> None:
        self.job = job
        self.title: str = job["title"]
        module, _, name = job["benchmark"].partition(":")
        benchmark: type[Understanding] = getattr(import_module(module), name)
        self.lmms: LmmsTask = benchmark.lmms
        judge = Judge(evaluation.Judge(**job["judge"])) if job["judge"] else None
        self.judge = judge
        self.desk = Desk(judge, self.lmms.task, job["template"])
        self.desk.open()
        self.manager = self._manager(benchmark)

    def _manager(self, benchmark: type[Understanding]) -> Any:
        from lmms_eval import tasks

        own = Path(tasks.__file__).parent / self.job["benchmark"].rpartition(":")[2].lower()
        folder = benchmark.folder or own
        manager = tasks.TaskManager(include_path=[str(folder)], include_defaults=False)
        if self.lmms.task not in manager.all_subtasks:
            raise CorlError(
                f"{self.title}: this version of lmms-eval has no task {self.lmms.task}.",
                "Install the one that corl knows: pip install lmms-eval==0.7.3",
            )
        return manager

    def task(self) -> Any:
        """The task with its data; CorlError when these cannot be had or do not fit it."""
        from datasets.exceptions import DatasetNotFoundError
        from huggingface_hub.errors import LocalTokenNotFoundError
        from lmms_eval.api.task import ConfigurableTask

        # Without lmms-eval's five attempts with pauses: what cannot be read now cannot be read in ten seconds.
        ConfigurableTask.download = ConfigurableTask.download.__wrapped__
        local = self.job["data"]
        changes = data.overrides(Path(local), self.lmms) if local else {}
        try:
            task = self.manager.load_config({"task": self.lmms.task, **changes})[self.lmms.task]
        except CorlError:
            raise
        except (ConnectionError, DatasetNotFoundError, LocalTokenNotFoundError) as error:
            raise CorlError(
                f"{self.title}: {self.lmms.dataset} could not be fetched: {str(error).splitlines()[0]}",
                "Fetch it where there is a network; a set that wants a token wants hf auth login.",
            ) from error
        except Exception as error:
            raise CorlError(
                f"{self.title}: {local or self.lmms.dataset} is not what {self.lmms.task} reads: {said(error)}.",
                f"It needs split {self.lmms.split} and the columns of {self.lmms.dataset}.",
            ) from error
        task.config.generation_kwargs["until"] = []  # lmms-eval's default would end answers at the first blank line
        return task

    # ---- requests -------------------------------------------------------------------------------------------------

    def requests(self) -> Iterator[Record]:
        """The items, without their task; no image is read."""
        task = self.task()
        task.build_all_requests()
        docs = task.eval_docs_no_media
        for request in task.instances:
            words, settings, number = request.args[0], request.args[1], request.args[3]
            try:
                yield self._request(task, docs[number], words, settings, number)
            except Exception as error:
                raise self._damaged(number, error) from error

    def _request(self, task: Any, doc: Record, words: str, settings: Mapping[str, Any], number: int) -> Record:
        instructions = self.job["instructions"]
        name = f"{number:05d}"
        prompt = words.strip()
        if instructions:
            prompt = "\n".join(filter(None, (self.lmms.question(doc), instructions[self.lmms.answer_type(doc)])))
        return {
            "id": name,
            "prompt": prompt,
            "group": self.lmms.group(doc),
            "image": f"inputs/{name}.png",
            # A limit made for a bare answer would cut one that begins with its reasons.
            "max_new_tokens": None if instructions else settings.get("max_new_tokens"),
            "data": {"doc": number, "record": digest(task, doc), "answer": str(task.doc_to_target(doc))},
        }

    def records(self) -> Iterator[Record]:
        """Read the records, which fetches them; tells how many there are."""
        yield {"records": len(self.task().eval_docs_no_media)}

    def images(self) -> Iterator[Record]:
        """Write the wanted files, each of the images of one record; tells each that it wrote."""
        task = self.task()
        docs = task.eval_docs
        wanted: dict[str, int] = self.job["wanted"]
        for file, number in wanted.items():
            path = Path(self.job["folder"], file)
            try:
                picture = side_by_side(task.doc_to_visual(docs[number]))
            except Exception as error:
                raise self._damaged(number, error) from error
            with writing(path):
                path.with_suffix(".part").unlink(missing_ok=True)
                picture.save(path.with_suffix(".part"), format="PNG")
                os.replace(path.with_suffix(".part"), path)
            yield {"image": file}

    def _damaged(self, number: int, error: Exception) -> CorlError:
        return CorlError(
            f"{self.title}: record {number} of {self.job['data'] or self.lmms.dataset} cannot be asked: {said(error)}.",
            f"Mend the record: it needs the columns of {self.lmms.dataset}.",
        )

    # ---- scores ---------------------------------------------------------------------------------------------------

    def score(self) -> Iterator[Record]:
        """The fields of a Score for each answer, as soon as it is known."""
        task = self.task()
        docs = task.eval_docs

        def judged(answer: Record) -> Record:
            return self._score(task, docs, answer)

        answers: list[Record] = self.job["answers"]
        if self.judge is None:
            yield from map(judged, answers)
            return
        for answer, result in self.judge.map(judged, answers):
            yield result if isinstance(result, dict) else failed(answer, str(result))

    def _score(self, task: Any, docs: Any, answer: Record) -> Record:
        number = answer["data"]["doc"]
        if number >= len(docs) or digest(task, docs[number]) != answer["data"]["record"]:
            raise CorlError(
                f"{self.title}: record {number} of the data is not the one that was asked.",
                "Score with the data that the questions are from.",
            )
        doc = docs[number]
        taken, tagged = extract(answer["text"])
        try:
            handed = self.lmms.hand(doc, taken)
            metrics = self._process(task, self.lmms.document(doc), handed)
            value = self.lmms.value(metrics)
        except CorlError:
            raise
        except JudgeError as error:
            return failed(answer, str(error))
        except Exception as error:
            return failed(answer, f"{self.lmms.task} cannot score it: {said(error)}")
        if value is None or not math.isfinite(value):
            return failed(answer, f"{self.lmms.task} gives no value")
        verdict = "right" if value == 1 else "wrong" if value == 0 else "partly right"
        return {
            "item": answer["item"],
            "sample": answer["sample"],
            "value": value,
            "reason": f"{verdict}: {handed!r}",
            "details": {"metrics": metrics, "handed": handed, "tagged": tagged},
        }

    def _process(self, task: Any, doc: Record, handed: str) -> Record:
        """The task's metrics of one answer, after its filters, in JSON."""
        from lmms_eval.api.instance import Instance

        origin = {"task": self.lmms.task, "doc_id": 0, "repeats": 1}
        request = Instance("generate_until", arguments=(), idx=0, metadata=origin, resps=[handed])
        name = "none"
        for ensemble in task._filters:
            ensemble.apply([request], [doc])
            name = ensemble.name
        # Past lmms-eval's five attempts with pauses: a record that cannot be scored fails alike each time.
        score = type(task).process_results.__wrapped__
        with self.desk.about(doc):
            found = score(task, doc, [request.filtered_resps[name]])
        metrics: Record = json.loads(json.dumps(found, default=plain))
        return metrics

    # ---- the task's own numbers -----------------------------------------------------------------------------------

    def aggregate(self) -> Iterator[Record]:
        """One record: the numbers of all metrics that have one, in percent, and We-Math's count; no data are read."""
        from lmms_eval.api.registry import get_aggregation
        from lmms_eval.utils import load_yaml_config

        values: dict[str, list[Any]] = defaultdict(list)
        for metrics in self.job["metrics"]:
            for name, value in metrics.items():
                values[name].append(value)
        config = load_yaml_config(self.manager.task_index[self.lmms.task]["yaml_path"], mode="full")
        numbers: Record = {}
        for metric in config["metric_list"]:
            name, rule = metric["metric"], metric["aggregation"]
            if name not in values or name in NO_NUMBERS:
                continue
            if own := mends.NUMBERS.get(name):
                numbers |= own(values[name])
            elif isinstance(rule, str):
                numbers[name] = 100 * get_aggregation(rule)(values[name])
            else:
                numbers[name] = percent(call(rule, values[name]), self.lmms.scale)
        yield numbers


def call(rule: Callable[..., Any], values: list[Any]) -> Any:
    """A task's aggregate; some rules want lmms-eval's command line, and read it only to write files."""
    wants = "args" in rule.__code__.co_varnames[: rule.__code__.co_argcount]
    return rule(values, None) if wants else rule(values)


def percent(value: Any, scale: float) -> float:
    """An aggregate times `scale`; "12.30%" is one in percent already, and MathVista has None for 0."""
    if value is None:
        return 0.0
    if isinstance(value, str):
        return float(value.removesuffix("%"))
    return float(value) * scale


def side_by_side(images: Sequence[Image.Image]) -> Image.Image:
    """One picture of all images from left to right, in their own sizes, on white; ValueError for none."""
    if not images:
        raise ValueError("it has no image")
    if len(images) == 1:
        return images[0].convert("RGB")
    width = sum(image.width for image in images) + GAP * (len(images) - 1)
    picture = Image.new("RGB", (width, max(image.height for image in images)), "white")
    left = 0
    for image in images:
        picture.paste(image.convert("RGB"), (left, 0))
        left += image.width + GAP
    return picture


def digest(task: Any, doc: Record) -> str:
    """By which a record is known again: of the words in which its task asks, and of the right answer."""
    return hashlib.sha256(f"{task.doc_to_text(doc)}\n{task.doc_to_target(doc)}".encode()).hexdigest()[:16]


def failed(answer: Record, reason: str) -> Record:
    """The fields of a Score without a value."""
    return {"item": answer["item"], "sample": answer["sample"], "value": None, "reason": reason}


def said(error: BaseException) -> str:
    """An exception in one line."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def plain(value: Any) -> Any:
    """A number of numpy's as Python's; what JSON cannot hold as text."""
    return value.item() if hasattr(value, "item") else str(value)


def watch(parent: int) -> None:
    """End this process, and with it the judge's calls, once its parent is gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def main(parent: int) -> None:
    """Do the job of the process `parent`; what cannot be done is the last record."""
    threading.Thread(target=watch, args=(parent,), daemon=True).start()
    records = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # lmms-eval prints
    try:
        job = json.load(sys.stdin)
        torchvision_guard.check()
        mends.mend()
        session = Session(job)
        work = {
            "records": session.records,
            "requests": session.requests,
            "images": session.images,
            "score": session.score,
            "aggregate": session.aggregate,
        }
        for record in work[job["do"]]():
            records.write(json.dumps(record) + "\n")
            records.flush()
    except CorlError as error:
        records.write(json.dumps({"error": error.message, "hint": error.hint}) + "\n")
    except ImportError as error:
        message = f"lmms-eval cannot be used: {said(error)}."
        hint = "Install what it needs, in corl's folder: pip install '.[eval]'"
        records.write(json.dumps({"error": message, "hint": hint}) + "\n")
    records.close()


if __name__ == "__main__":
    main(int(sys.argv[1]))
