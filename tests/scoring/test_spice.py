"""SPICE in a real JVM. CoreNLP's models are not to be had in a test, so a parser of a few lines stands for them."""

import json
import os
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from corl_cli.core.errors import CorlError
from corl_cli.scoring import corenlp, jvm, spice
from corl_cli.scoring.spice import Spice, SpiceServer

HERE = Path(__file__).parent
CASES = json.loads((HERE / "spice_tuples.json").read_text())
PACKAGE = corenlp.pycocoevalcap()
JAVAC = shutil.which("javac")

needs_jar = pytest.mark.skipif(
    PACKAGE is None or shutil.which(jvm.java()) is None, reason="SPICE needs Java and pycocoevalcap"
)
needs_javac = pytest.mark.skipif(JAVAC is None, reason="the stand-in of the parser is compiled here: needs javac")


def corenlp_code():
    """CoreNLP without its models, of the version that pycocoevalcap ships for its tokenizer."""
    return PACKAGE / "tokenizer" / "stanford-corenlp-3.4.1.jar"


def classpath():
    return os.pathsep.join(map(str, [PACKAGE / "spice/spice-1.0.jar", PACKAGE / "spice/lib/*", corenlp_code()]))


def compiled(source, target, *options):
    command = [JAVAC, "--release", "8", "-Xlint:-options", "-cp", classpath(), "-d", target, *options, source]
    subprocess.run(command, check=True)
    return sorted(Path(target).glob("**/*.class"))


@pytest.fixture(scope="module")
def server():
    server = SpiceServer([corenlp_code()])
    yield server
    server.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder that looks like CoreNLP's, with the stand-in of the parser."""
    home, classes = tmp_path_factory.mktemp("corenlp"), tmp_path_factory.mktemp("classes")
    (home / corenlp.JARS[0]).symlink_to(corenlp_code())
    with zipfile.ZipFile(home / corenlp.JARS[1], "w") as jar:
        for path in compiled(HERE / "java/edu/anu/spice/SpiceParser.java", classes):
            jar.write(path, path.relative_to(classes))
    return home


@pytest.fixture(scope="module")
def log(home):
    """Where the stand-in writes every text that it is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CORENLP_HOME", str(home))
        patch.setenv("SPICE_TEST_LOG", str(home / "texts"))
        yield home / "texts"


@pytest.fixture(scope="module")
def loaded(log):
    """One JVM for all tests here."""
    measure = Spice()
    measure.load(torch.device("cpu"))
    yield measure
    measure.server.close()


@needs_jar
@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_tuples_are_scored_as_the_original_does(server, case):
    (agreement,) = server.score([(case["candidate"], case["reference"])])
    expected = case["spice"]
    assert agreement[:3] == pytest.approx((expected["f"], expected["pr"], expected["re"]))


@needs_jar
def test_an_object_joins_the_first_of_equally_similar_ones_every_time(server):
    pair = ([["photo"], ["movie"], ["picture"]], [["sky"]])
    assert {str(agreement.extra) for agreement in server.score([pair] * 50)} == {"[('movie',), ('photo/picture',)]"}


@needs_jar
def test_a_score_shows_its_tuples(server):
    said, wanted = [["cat"], ["cat", "black"], ["cat", "mat", "on"]], [["cat", "rug", "on"], ["cat", "black"]]
    (agreement,) = server.score([(said, wanted)])
    assert agreement.matched == [("cat",), ("cat", "black")]
    assert agreement.missing == [("cat", "rug", "on"), ("rug",)]
    assert agreement.extra == [("cat", "mat", "on"), ("mat",)]
    assert agreement.f == pytest.approx(0.5)
    with pytest.raises(CorlError, match=r"no tuple .*far"):
        server.score([([["cat", "mat", "on", "far"]], wanted)])


@needs_jar
@needs_javac
def test_a_caption_is_measured_against_its_own_prompt_in_batches_over_ten(loaded):
    things = ["cat", "dog", "bus", "tree", "car", "house", "boat", "chair", "table", "bird", "horse", "cow"]
    prompts = [f"red-{thing}" for thing in things]
    same, other = loaded(prompts, prompts), loaded(prompts, [*prompts[1:], prompts[0]])
    assert same.values.tolist() == [1.0] * 12
    assert other.values.tolist() == [0.0] * 12
    assert [details["missing"] for details in other.details] == [f"{thing}, red {thing}" for thing in things]
    singles = [loaded([prompt], ["cat cow"]).values.item() for prompt in prompts]
    assert loaded(prompts, ["cat cow"] * 12).values.tolist() == singles == [0.5, *[0.0] * 10, 0.5]


@needs_jar
@needs_javac
def test_a_text_is_parsed_once_and_the_oldest_are_forgotten(loaded, log, monkeypatch):
    monkeypatch.setattr(spice, "REMEMBERED", 3)
    before = len(log.read_text().splitlines())
    loaded(["gold", "gold", "iron"], ["clay", "gold", "clay"])
    loaded(["gold"], ["gold"])
    loaded(["salt"], ["salt"])
    assert list(loaded.parsed) == ["clay", "gold", "salt"]
    loaded(["iron"], ["gold"])
    assert log.read_text().splitlines()[before:] == ["gold", "iron", "clay", "salt", "iron"]


@needs_jar
@needs_javac
def test_pairs_without_a_score_say_why(loaded):
    prompts = ["red-cat cat-on-mat", " ", "...", "refuse", "cat", "cat"]
    found = loaded(prompts, ["", "cat", "cat", "cat", "refuse", "cat"])
    assert found.values[0] == 0  # nothing said: nothing matched
    missing = "cat, cat on mat, red cat, mat"
    assert found.details[0] == {"matched": "nothing", "missing": missing, "extra": "nothing"}
    assert torch.isnan(found.values[1:5]).all()
    assert [details["failed"] for details in found.details[1:5]] == [
        "the prompt is empty",
        "SPICE finds no object, attribute or relation in the prompt",
        "SPICE could not parse the prompt: java.lang.IllegalStateException: too hard",
        "SPICE could not parse the caption: java.lang.IllegalStateException: too hard",
    ]
    assert found.values[5] == 1


@needs_jar
@needs_javac
def test_a_parse_error_is_not_remembered(loaded, log):
    before = log.read_text().splitlines().count("refuse")
    for asked in (1, 2):
        assert loaded(["refuse"], ["cat"]).values.isnan()
        assert log.read_text().splitlines().count("refuse") == before + asked
    assert "refuse" not in loaded.parsed


@needs_jar
@needs_javac
def test_f_above_one_is_clipped_and_said(loaded):
    found = loaded(["picture"], ["photo movie"])
    assert found.values.tolist() == [1.0]
    assert found.details[0]["clipped"] == "F 1.333 to 1: several tuples of the caption match one of the prompt"


@needs_jar
@needs_javac
def test_a_jvm_that_dies_is_started_again(log, home):
    server = SpiceServer([home / jar for jar in corenlp.JARS])
    assert server.parse(["red-cat cat-on-mat"]) == [[("cat", "red"), ("cat", "mat", "on")]]
    os.kill(server.service.pid, signal.SIGKILL)
    assert server.parse(["cat"]) == [[("cat",)]]
    assert server.parse(["cat", "die once"]) == [[("cat",)], [("die",), ("once",)]]
    assert log.read_text().splitlines().count("die once") == 2
    with pytest.raises(CorlError, match=r"ended twice over one request \(exit code 7\): .*the parser is gone") as error:
        server.parse(["die"])
    assert "-Xmx8g" in error.value.hint
    server.close()


@needs_jar
@needs_javac
def test_a_parse_that_never_ends_is_ended(loaded, monkeypatch):
    monkeypatch.setattr(loaded.server.service, "seconds", 1)
    with pytest.raises(CorlError, match="gave no answer within 1 s"):
        loaded(["hang"], ["cat"])
    monkeypatch.undo()
    assert loaded(["cat", "dog"], ["cat", "cat"]).values.tolist() == [1.0, 0.0]


@needs_jar
def test_missing_models_are_one_clear_line(tmp_path, monkeypatch):
    (tmp_path / corenlp.JARS[0]).symlink_to(corenlp_code())
    zipfile.ZipFile(tmp_path / corenlp.JARS[1], "w").close()
    monkeypatch.setenv("CORENLP_HOME", str(tmp_path))
    with pytest.raises(CorlError, match=r"parser cannot be used: .*englishPCFG\.ser\.gz") as error:
        Spice().load(torch.device("cpu"))
    assert "\n" not in error.value.message
    assert error.value.hint.endswith(corenlp.by_hand(tmp_path))


@needs_jar
def test_too_small_a_heap_ends_in_a_hint(monkeypatch):
    monkeypatch.setenv("_JAVA_OPTIONS", "-Xmx6m")  # which wins over the command line's, as the hint promises
    with pytest.raises(CorlError, match="OutOfMemoryError") as error:
        SpiceServer([corenlp_code()]).score([([["cat"]], [["cat"]])])
    assert "_JAVA_OPTIONS=-Xmx8g" in error.value.hint


def test_no_remedy_installs_a_package_that_is_not_ours_or_brings_another_torch(monkeypatch):
    monkeypatch.setattr(corenlp, "find_spec", lambda name: None)
    _, package, _ = Spice().requirements()
    assert package.remedy == "pip install --no-deps pycocoevalcap lpips"


def test_what_is_missing_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    java, *_ = Spice().requirements()
    assert (java.state, str(tmp_path) in java.detail, java.remedy) == ("missing", True, jvm.INSTALL)
    with pytest.raises(CorlError, match=r"SPICE needs Java \(missing\)") as error:
        Spice().load(torch.device("cpu"))
    assert "default-jre-headless" in error.value.hint


@needs_jar
@needs_javac
def test_the_shipped_classes_come_from_the_shipped_source(tmp_path):
    version = subprocess.run([JAVAC, "-version"], capture_output=True, text=True, check=True).stdout
    if not version.startswith("javac 17."):
        pytest.skip(f"shipped classes are made by javac 17, this is {version.strip()}")
    folder = Path(spice.__file__).parent / "java"
    made = {path.name: path.read_bytes() for path in compiled(folder / "SpiceServer.java", tmp_path)}
    assert made == {path.name: path.read_bytes() for path in folder.glob("*.class")}, "compile it: see its comment"
