import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from corl_cli.core.errors import CorlError
from corl_cli.scoring import jvm
from corl_cli.scoring.jvm import Service

ECHO = """
import json, os, sys, time
print("I am awake", file=sys.stderr)
for line in sys.stdin:
    question = json.loads(line)
    if question == "die":
        print("this is my end\\n\\tat some.frame", file=sys.stderr)
        os._exit(3)
    if question == "hang":
        time.sleep(600)
    if question == "babble":
        print("hello", flush=True)
    elif question == "refuse":
        print(json.dumps({"error": "I will not"}), flush=True)
    else:
        print(json.dumps({"said": question, "pid": os.getpid()}), flush=True)
"""


@pytest.fixture
def echo():
    service = Service("The echo", [sys.executable, "-c", ECHO], seconds=60, hint="Speak softly.")
    yield service
    service.close()


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_the_end_of(pid):
    deadline = time.monotonic() + 60
    while alive(pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_program_answers_every_question(echo):
    answers = [echo.ask(question) for question in ("é\n", {"a": [1, 2]}, "x" * 1_000_000)]
    assert [answer["said"] for answer in answers] == ["é\n", {"a": [1, 2]}, "x" * 1_000_000]
    assert {answer["pid"] for answer in answers} == {echo.pid}


def test_a_program_that_was_killed_is_started_again(echo):
    first = echo.ask("a")["pid"]
    os.kill(first, signal.SIGKILL)
    assert echo.ask("b")["pid"] != first
    assert not os.path.exists(f"/proc/{first}")  # no zombie either


def test_a_question_that_kills_twice_is_an_error_with_the_last_words(echo):
    with pytest.raises(CorlError) as error:
        echo.ask("die")
    assert error.value.message == "The echo ended twice over one request (exit code 3): I am awake / this is my end"
    assert error.value.hint == "Speak softly."
    assert echo.ask("a")["said"] == "a"


def test_a_program_that_takes_too_long_is_ended(echo):
    echo.seconds = 1
    with pytest.raises(CorlError, match=r"gave no answer within 1 s \(exit code -9\)"):
        echo.ask("hang")
    echo.seconds = 60
    assert echo.ask("a")["said"] == "a"


@pytest.mark.parametrize(
    ("question", "said"), [("babble", "The echo gave no JSON but 'hello'."), ("refuse", "The echo failed: I will not")]
)
def test_what_is_no_answer_is_an_error(echo, question, said):
    with pytest.raises(CorlError) as error:
        echo.ask(question)
    assert error.value.message == said
    assert echo.ask("a")["said"] == "a"


def test_an_interrupted_question_leaves_no_answer_behind(echo):
    echo.ask("a")
    timer = "import os, signal, sys, time; time.sleep(0.5); os.kill(int(sys.argv[1]), signal.SIGINT)"
    with pytest.raises(KeyboardInterrupt), subprocess.Popen([sys.executable, "-c", timer, str(os.getpid())]):
        echo.ask("hang")
    assert echo.ask("b")["said"] == "b"


def test_a_fork_has_a_program_of_its_own(echo):
    parents = echo.ask("a")["pid"]
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, str(echo.ask("b")["pid"]).encode())
        echo.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert int(os.read(reader, 20)) != parents
    assert echo.ask("c")["pid"] == parents
    os.close(reader)
    os.close(writer)


def test_a_copy_starts_its_own(echo):
    first = echo.ask("a")["pid"]
    copy = pickle.loads(pickle.dumps(echo))
    assert copy.ask("b")["pid"] != first
    copy.close()


@pytest.mark.parametrize("how", ["exit", "killed"])
def test_the_program_ends_with_its_parent(how):
    code = f"""
    import os, signal
    from corl_cli.scoring.jvm import Service
    service = Service("The echo", [{sys.executable!r}, "-c", {ECHO!r}], seconds=60)
    print(service.ask("a")["pid"], flush=True)
    if {how!r} == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    """
    parent = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    wait_for_the_end_of(int(parent.stdout))


def test_a_program_that_is_not_there_is_one_line():
    with pytest.raises(CorlError, match="The echo cannot be started") as error:
        Service("The echo", ["/no/such/program"], seconds=1).ask("a")
    assert error.value.hint == jvm.INSTALL


def test_java_home_comes_before_path(tmp_path, monkeypatch):
    program = tmp_path / "bin" / "java"
    program.parent.mkdir()
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert jvm.requirement().state == "missing"
    program.write_text("#!/bin/sh\necho 'openjdk version \"21.0.1\" 2023-10-17' >&2\n")
    program.chmod(0o755)
    need = jvm.requirement()
    assert (need.state, need.detail) == ("ok", f"{program}, version 21.0.1")
    program.write_text("#!/bin/sh\necho 'Unable to locate a Java Runtime.' >&2; exit 1\n")
    need = jvm.requirement()
    assert (need.state, need.detail) == ("broken", f"{program} does not run: Unable to locate a Java Runtime.")
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert (jvm.requirement().state, jvm.requirement().detail) == ("missing", "none on PATH")
