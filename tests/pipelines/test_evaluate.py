"""Which items a limit chooses."""

from hypothesis import given
from hypothesis import strategies as st

from corl_cli.eval.base import Item
from corl_cli.pipelines.evaluate import spread


def items(sizes: dict[str, int]) -> list[Item]:
    return [Item(id=f"{g}{n}", task="t2i", prompt="", group=g) for g, size in sizes.items() for n in range(size)]


def test_a_few_are_of_every_group_and_evenly_spread():
    chosen = spread(items({"a": 100, "b": 2, "c": 10}), 8)
    assert [item.id for item in chosen] == ["a0", "a33", "a66", "b0", "b1", "c0", "c3", "c6"]


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1), st.integers(1, 40))
def test_a_limit_is_kept_and_the_order_too(sizes, limit):
    every = items(sizes)
    chosen = spread(every, limit)
    assert len(chosen) == min(limit, len(every))
    assert [item for item in every if item in chosen] == chosen
