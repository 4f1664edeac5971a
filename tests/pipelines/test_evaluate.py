"""Which items a limit chooses."""

from hypothesis import given
from hypothesis import strategies as st

from corl_cli.eval.base import Item
from corl_cli.pipelines.evaluate import choose

SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 9), min_size=1)


def items(sizes: dict[str, int]) -> list[Item]:
    return [Item(id=f"{g}{n}", task="t2i", prompt="", group=g) for g, size in sizes.items() for n in range(size)]


def test_a_few_are_of_every_group():
    chosen = choose(items({"a": 100, "b": 2, "c": 10}), 8, by_group=True)
    assert [item.group for item in chosen] == ["a"] * 3 + ["b"] * 2 + ["c"] * 3


@given(SIZES, st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_a_smaller_limit_chooses_some_of_a_larger_ones(sizes, one, other, by_group):
    every = items(sizes)
    few, more = (choose(every, limit, by_group=by_group) for limit in sorted((one, other)))
    assert len(few) == min(min(one, other), len(every))
    assert [item for item in more if item in few] == few
    assert [item for item in every if item in more] == more


def test_without_groups_each_item_is_as_likely():
    chosen = choose(items({"a": 900, "b": 100}), 200, by_group=False)
    assert 8 <= sum(item.group == "b" for item in chosen) <= 35
