"""Run by tests in a process of its own: hands answers to the real lmms-eval tasks, and prints what they say in JSON.

    python lmms_child.py cases.json   # {name: {"benchmark", "data": folder, "mended", "answers": [[record, text], …]}}

Prints {name: {"plain": [prompt, …], "images": [n, …], "metrics": [{…}, …], "total": {…}}} as the last line. What is not
`mended` sees the data set's records as they are.
"""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

from corl_cli.eval.understanding.mends import mend
from corl_cli.eval.understanding.tasks import TASKS
from corl_cli.models import torchvision_guard

FOLDERS = ("mmmu", "mmstar", "wemath", "mmvet", "pope", "logicvista", "mathvista", "mathverse", "mathvision")


def run(manager: Any, case: dict[str, Any]) -> dict[str, Any]:
    """What one task says to its answers; `total` holds its aggregates, or the names of what they raised."""
    lmms = TASKS[case["benchmark"]]
    local = {"dataset_path": case["data"], "dataset_name": None, "dataset_kwargs": {"load_from_disk": True}}
    [task] = manager.load_config({"task": lmms.task, **local}).values()
    records = [lmms.document(record) if case["mended"] else record for record in task.eval_docs_no_media]
    metrics = [task.process_results(records[record], [text]) for record, text in case["answers"]]
    total: dict[str, Any] = {}
    for metric, aggregate in task.aggregation().items():
        if metric == "submission":  # a file for a server
            continue
        values = [copy.deepcopy(one[metric]) for one in metrics if metric in one]
        wants = "args" in aggregate.__code__.co_varnames
        try:
            total[metric] = aggregate(values, None) if wants else aggregate(values)
        except Exception as error:  # what it raises is what the test wants to know
            total[metric] = type(error).__name__
    return {
        "plain": [task.doc_to_text(record) for record in task.eval_docs],
        "images": [len(task.doc_to_visual(record)) for record in task.eval_docs],
        "metrics": metrics,
        "total": total,
    }


def main(cases: dict[str, Any]) -> None:
    """Load each task with its local data, and score."""
    torchvision_guard.check()
    mend()
    import lmms_eval.tasks

    folder = Path(lmms_eval.tasks.__file__).parent
    manager = lmms_eval.tasks.TaskManager(include_path=[str(folder / name) for name in FOLDERS], include_defaults=False)
    print(json.dumps({name: run(manager, case) for name, case in cases.items()}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
