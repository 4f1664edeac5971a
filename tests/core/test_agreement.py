"""Sections of a recipe that do not go together."""

import pytest
from pydantic import ValidationError

from corl_cli.core.recipe import Recipe

REWARDS = {"t2i": [{"name": "matching"}], "mm2t": [{"name": "accuracy"}]}


def make(**sections: object) -> Recipe:
    return Recipe.model_validate({"name": "x", "rewards": REWARDS, "algo": {"credit": "per_task"}} | sections)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"rewards": {"t2i": REWARDS["t2i"]}}, "rewards.mm2t: no reward"),
        ({"algo": {"credit": "blend"}, "train": {"tasks": ["t2i"]}}, "algo.credit: blend needs both tasks"),
        ({"algo": {"credit": "joint"}, "train": {"cycle": {"every": 2}}}, "algo.credit: joint needs both tasks"),
        ({"train": {"tasks": ["t2i"], "cycle": {}}}, "train.cycle: there are no turns"),
        ({"train": {"method": "sft"}, "algo": {"credit": "per_task", "beta": 0.1}}, "algo.beta: imitation"),
        ({"model": {"lora": {"dropout": 0.1}}, "algo": {"credit": "per_task", "beta": 0.1}}, "model.lora.dropout"),
        ({"checkpoint": {"best": "pareto"}}, "checkpoint.best: pareto cannot be told"),
    ],
)
def test_what_does_not_go_together_is_said(sections: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        make(**sections)


@pytest.mark.parametrize(
    "sections",
    [
        {"train": {"method": "sft"}, "rewards": {}},
        {"train": {"cycle": {"every": 2}}},
        {"model": {"lora": {"dropout": 0.1}}},
        {"train": {"tasks": ["mm2t"]}, "algo": {"credit": "per_task", "beta": 0.1}},
    ],
)
def test_what_goes_together_is_taken(sections: dict[str, object]) -> None:
    make(**sections)
