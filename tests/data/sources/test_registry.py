import pytest

from corl_cli.core import loader
from corl_cli.core.errors import UsageError
from corl_cli.core.recipe import SourceSpec
from corl_cli.data.sources import SOURCES, bind, bind_all, resolve
from corl_cli.data.sources.base import Source

RECIPES = [name for name in loader.names() if name.startswith("prepare/")]


@pytest.mark.parametrize("name", SOURCES)
def test_every_registered_source_is_documented(name):
    cls = resolve(name)
    assert issubclass(cls, Source)
    assert cls.__doc__


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_shipped_recipe_binds_its_sources(recipe):
    loaded = loader.load(recipe)
    assert bind_all(loaded.prepare.sources, loaded.seed)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "table", "path": "a"}, {"name": "table", "path": "b"}),
        ({"name": "table", "path": "a", "label": "x"}, {"name": "questions", "path": "b", "images": "b", "label": "x"}),
        ({"name": "table", "path": "a", "label": "coco"}, {"name": "coco"}),
        ({"name": "rcot"}, {"name": "rcot", "path": "b"}),
        ({"name": "world"}, {"name": "world"}),
    ],
)
def test_sources_whose_ids_would_be_the_same_are_refused(first, second):
    specs = [SourceSpec(name="arxivqa"), SourceSpec(**first), SourceSpec(**second)]
    with pytest.raises(UsageError, match="are both labelled"):
        bind_all(specs, seed=0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"name": "table", "path": "a"}, {"name": "table", "path": "a", "label": "b"}),
        ({"name": "aokvqa"}, {"name": "aokvqa", "answers": "oe"}),
        ({"name": "mavis"}, {"name": "mavis", "path": "b"}),
        ({"name": "world"}, {"name": "world", "split": "test"}),
    ],
)
def test_sources_whose_ids_differ_go_together(first, second):
    assert len(bind_all([SourceSpec(**first), SourceSpec(**second)], seed=0)) == 2


def test_a_name_that_does_not_exist_is_answered_with_the_nearest():
    with pytest.raises(UsageError, match="There is no source 'sciencqa'") as caught:
        resolve("sciencqa")
    assert caught.value.hint == "Did you mean scienceqa?"


def test_all_faults_of_the_options_at_once():
    with pytest.raises(UsageError) as caught:
        bind(SourceSpec(name="aokvqa", answer="mc", answers="yes"), seed=0)
    assert caught.value.message.splitlines() == [
        "prepare.sources.aokvqa.answers: input should be 'mc' or 'oe', not 'yes'",
        "prepare.sources.aokvqa.answer: unknown key; did you mean answers?",
    ]
    with pytest.raises(UsageError, match=r"prepare\.sources\.table\.path: missing; it has no default"):
        bind(SourceSpec(name="table"), seed=0)


def test_a_class_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_source.py").write_text(
        "from corl_cli.data.items import Raw\n"
        "from corl_cli.data.sources.base import Source\n"
        "class Mine(Source):\n"
        "    def files(self): return []\n"
        "    def items(self): yield Raw(id='mine-0', source='mine', image=b'', captions=('a cat',))\n"
        "class Half(Source):\n"
        "    def files(self): return []\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [item.id for item in bind(SourceSpec(name="own_source:Mine"), seed=0).items()] == ["mine-0"]
    with pytest.raises(UsageError, match="'own_source:Half' does not define items"):
        resolve("own_source:Half")
    with pytest.raises(UsageError, match="'pathlib:Path' is not a source"):
        resolve("pathlib:Path")
    with pytest.raises(UsageError, match="Source 'nowhere:Mine' cannot be imported"):
        resolve("nowhere:Mine")
