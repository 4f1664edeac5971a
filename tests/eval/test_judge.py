"""A judge over HTTP: what is asked, waited for, kept and told, with a real server that misbehaves."""

import itertools
import json
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from fake_judge import (
    FakeJudge,
    answer,
    cut_off,
    error,
    hang_up,
    nonsense,
    refused,
    settings,
    slow,
    truncated,
    unused_port,
)
from pydantic import ValidationError

from corl_cli.core import evaluation
from corl_cli.core.errors import CorlError
from corl_cli.eval import judge_endpoint
from corl_cli.eval.judge import PROBE, WORKER, Judge, JudgeError, Unavailable

SECRET = "sk-very-secret-0123"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Waits that would be half a second and more are some milliseconds."""
    monkeypatch.setattr(judge_endpoint, "FIRST_WAIT", 0.005)


@pytest.fixture
def make(tmp_path):
    return lambda server, **changed: Judge(settings(server, **changed), cache=tmp_path / "cache")


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def number(text):
    """A parser as a benchmark has it."""
    return int(text)


def test_a_question_with_an_image_arrives_whole_and_the_answer_comes_back(make, tmp_path):
    image = tmp_path / "0000.png"
    image.write_bytes(b"\x89PNG any bytes at all")
    with FakeJudge(["yes"]) as server:
        assert make(server, max_tokens=7).ask("t-1", "Is it red?", image) == "yes"
        (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.text == "Is it red?"
    assert request.images == [b"\x89PNG any bytes at all"]
    sent = {name: request.body[name] for name in ("model", "temperature", "max_tokens")}
    assert sent == {"model": "fake-judge", "temperature": 0, "max_tokens": 7}
    assert "Authorization" not in request.headers


@pytest.mark.parametrize(
    "trouble",
    [500, 503, 429, error(429, retry_after=0), error(429, retry_after="soon"), truncated(), nonsense(), hang_up()],
)
def test_passing_trouble_is_tried_again(make, trouble):
    with FakeJudge([trouble, trouble, "yes"]) as server:
        assert make(server).ask("t-1", "?") == "yes"
        assert len(server.requests) == 3


def test_a_retry_after_in_seconds_is_waited_for(make):
    with FakeJudge([error(429, retry_after=0.3), "yes"]) as server:
        make(server).ask("t-1", "?")
        first, second = server.requests
    assert second.at - first.at >= 0.3


def test_a_retry_after_with_a_date_is_waited_for(make):
    def script(request):
        if len(server.requests) > 1:
            return "yes"
        return error(429, retry_after=format_datetime(datetime.now(UTC) + timedelta(seconds=1.9), usegmt=True))

    with FakeJudge(script) as server:
        make(server).ask("t-1", "?")
        first, second = server.requests
    assert second.at - first.at >= 0.8  # an HTTP date has whole seconds


def test_a_retry_after_of_hours_is_not_waited_for(make):
    with FakeJudge([error(429, "daily limit", retry_after=7200)]) as server:
        with pytest.raises(Unavailable, match="429: daily limit"):
            make(server).ask("t-1", "?")
        assert len(server.requests) == 1


def test_retries_are_bounded_and_the_reason_says_how_many(make):
    with FakeJudge([500]) as server:
        with pytest.raises(Unavailable, match="status 500: scripted, after 3 attempts"):
            make(server, retries=2).ask("t-1", "?")
        assert len(server.requests) == 3


def test_a_slow_judge_is_a_time_out_that_is_tried_again(make):
    with FakeJudge([slow("late", 1.0), "yes"]) as server:
        assert make(server, timeout=0.2).ask("t-1", "?") == "yes"
    with FakeJudge([slow("late", 1.0)]) as server, pytest.raises(Unavailable, match=r"no answer within 0\.2 s"):
        make(server, timeout=0.2, retries=0).ask("t-2", "?")


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (cut_off("Consistency: 2"), "cut at 1024 tokens"),
        (answer(""), "empty"),
        (answer(" \n"), "empty"),
        (answer(None), "empty"),
        (refused("No faces, sorry."), "refused: 'No faces, sorry.'"),
        (answer("", finish_reason="content_filter"), "content filter"),
        (error(400, "image too large"), "status 400: image too large"),
        (error(413, "too much"), "status 413: too much"),
    ],
)
def test_an_answer_that_is_none_fails_this_item_at_once_and_is_not_kept(make, tmp_path, reply, reason):
    with FakeJudge([reply]) as server:
        with pytest.raises(JudgeError, match=reason) as failure:
            make(server).ask("t-1", "?")
        assert not isinstance(failure.value, Unavailable)
        assert len(server.requests) == 1
    assert files(tmp_path) == []


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_would_fail_for_every_item_ends_the_run_with_one_line(make, status):
    with FakeJudge([error(status, "nope")]) as server:
        judge = make(server)
        with pytest.raises(CorlError, match=f"status {status}: nope") as failure:
            list(judge.map(lambda text: judge.ask("t-1", text), ["a", "b", "c"]))
        assert "\n" not in failure.value.message
        assert "eval.judge.model" in failure.value.hint


def test_a_kept_answer_costs_no_request_and_only_the_same_question_has_it(make, tmp_path):
    image, other = tmp_path / "a.png", tmp_path / "b.png"
    image.write_bytes(b"one")
    other.write_bytes(b"two")
    with FakeJudge(["yes"]) as server:
        make(server).ask("t-1", "?", image)
        asked = len(server.requests)
        assert make(server).ask("t-1", "?", image) == "yes"
        image.rename(tmp_path / "c.png")
        assert make(server).ask("t-1", "?", tmp_path / "c.png") == "yes"  # the bytes count, not the name
        assert len(server.requests) == asked == 1
        make(server).ask("t-2", "?", other)
        make(server).ask("t-1", "?", other)
        make(server).ask("t-1", "??", other)
        make(server, model="another").ask("t-1", "?", other)
        make(server, max_tokens=9).ask("t-1", "?", other)
        assert len(server.requests) == 6


def test_a_damaged_file_in_the_cache_is_asked_again_and_mended(make, tmp_path):
    with FakeJudge(["yes"]) as server:
        make(server).ask("t-1", "?")
        (kept,) = files(tmp_path)
        kept.write_text('{"answer": "y')
        assert make(server).ask("t-1", "?") == "yes"
        assert len(server.requests) == 2
    assert json.loads(kept.read_text())["answer"] == "yes"


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("CORL_CACHE", str(tmp_path / "own"))
    with FakeJudge(["yes"]) as server:
        Judge(settings(server)).ask("t-1", "?")
    assert len(files(tmp_path / "own" / "judge")) == 1


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with FakeJudge(["yes"]) as server, pytest.raises(CorlError) as failure:
        Judge(settings(server), cache=tmp_path / "file").ask("t-1", "?")
    assert "CORL_CACHE" in failure.value.hint


def test_an_answer_that_cannot_be_read_is_asked_for_once_more(make, tmp_path):
    with FakeJudge(["two", "2"]) as server:
        assert make(server).ask("t-1", "?", accept=number) == "2"
    (kept,) = files(tmp_path)
    assert json.loads(kept.read_text())["answer"] == "2"


def test_an_answer_that_can_never_be_read_is_a_failure_that_quotes_it_and_is_not_kept(make, tmp_path):
    with FakeJudge(["I would say " + "two " * 100]) as server:
        with pytest.raises(JudgeError, match=r"cannot be read: invalid literal .*I would say two") as failure:
            make(server).ask("t-1", "?", accept=number)
        assert len(server.requests) == 2
    assert len(str(failure.value)) < 700
    assert files(tmp_path) == []


def test_a_kept_answer_that_today_s_parser_rejects_is_asked_again(make):
    with FakeJudge(["two", "2"]) as server:
        make(server).ask("t-1", "?")
        assert make(server).ask("t-1", "?", accept=number) == "2"


def test_map_asks_no_more_at_once_than_it_may_and_yields_everything(make):
    with FakeJudge(lambda request: slow(request.text, 0.02)) as server:
        judge = make(server, concurrency=3)
        made = dict(judge.map(lambda n: judge.ask("t-1", str(n), accept=number), range(20)))
    assert made == {n: str(n) for n in range(20)}
    assert 2 <= server.most <= 3


def test_map_yields_what_is_done_before_the_slow_ones(make):
    first_seen = threading.Event()

    def script(request):
        if request.text == "slow":
            first_seen.wait(10)
        return request.text

    with FakeJudge(script) as server:
        judge = make(server, concurrency=2)
        order = []
        for thing, _ in judge.map(lambda text: judge.ask("t-1", text), ["slow", "quick"]):
            order.append(thing)
            first_seen.set()
    assert order == ["quick", "slow"]


def test_in_map_a_failure_stands_in_its_result_s_place_and_the_others_go_on(make):
    with FakeJudge(lambda request: refused() if request.text == "3" else request.text) as server:
        judge = make(server)
        made = dict(judge.map(lambda n: int(judge.ask("t-1", str(n) if n != 5 else "five")), range(8)))
    assert "refused" in str(made[3])
    assert isinstance(made[5], JudgeError)  # int("five") is a ValueError
    assert [made[n] for n in (0, 1, 2, 4, 6, 7)] == [0, 1, 2, 4, 6, 7]


def test_in_map_an_error_of_the_program_is_no_failed_item(make):
    with FakeJudge(["yes"]) as server, pytest.raises(ZeroDivisionError):
        list(make(server).map(lambda n: 1 // n, [0]))


def test_a_judge_that_goes_down_in_the_middle_ends_the_run_and_what_is_done_is_kept(make, tmp_path):
    with FakeJudge(lambda request: request.text if len(server.requests) <= 5 else 503) as server:
        judge = make(server, concurrency=1, retries=0)
        done = []
        with pytest.raises(CorlError, match="is down: 10 calls in a row failed, the last one with: status 503"):
            done.extend(judge.map(lambda n: judge.ask("t-1", str(n)), range(500)))
        assert len(server.requests) == 15
    assert len(files(tmp_path)) == 5
    assert server.base_url in str(judge.identity())


def test_scattered_failures_do_not_end_the_run(make):
    turn = itertools.count()
    with FakeJudge(lambda request: request.text if next(turn) % 2 else 500) as server:
        judge = make(server, concurrency=1, retries=0)
        made = dict(judge.map(lambda n: judge.ask("t-1", str(n)), range(40)))
    assert sum(isinstance(result, JudgeError) for result in made.values()) == 20


def test_leaving_map_early_waits_for_no_answer_and_asks_for_no_more(make):
    release = threading.Event()

    def script(request):
        if request.text != "0":
            release.wait(10)
        return request.text

    with FakeJudge(script) as server:
        judge = make(server, concurrency=2)
        answers = judge.map(lambda n: judge.ask("t-1", str(n)), range(100))
        assert next(answers)[0] == 0
        answers.close()  # what Ctrl-C comes to; would hang here if it waited for the answers under way
        assert not release.is_set()
        release.set()
    assert len(server.requests) <= 4


def test_back_off_ends_when_map_does(make, monkeypatch):
    monkeypatch.setattr(judge_endpoint, "FIRST_WAIT", 60.0)
    with FakeJudge(lambda request: request.text if request.text == "0" else 500) as server:
        judge = make(server, concurrency=2)
        answers = judge.map(lambda n: judge.ask("t-1", str(n)), [0, 1])
        next(answers)
        while len(server.requests) < 2:
            time.sleep(0.01)
        workers = [thread for thread in threading.enumerate() if thread.name == WORKER]
        answers.close()
        for worker in workers:
            worker.join(10)
        assert workers
        assert not any(worker.is_alive() for worker in workers)


def test_the_probe_asks_once_and_tells_what_scoring_will_take(make):
    price = evaluation.Price(input=2.0, output=10.0)
    with FakeJudge(["Ready!"]) as server:
        estimate = make(server, price=price).probe(1000)
        assert [request.text for request in server.requests] == [PROBE]
    # 1000 calls of 1500 tokens at $2 and 100 at $10 for a million
    assert (estimate.calls, estimate.cost) == (1000, pytest.approx(4.0))
    assert str(estimate) == "up to 1000 calls, about $4.00 (guessed at 1500 tokens read and 100 written a call)"


def test_without_a_price_there_is_no_cost_and_without_calls_no_probe(make):
    with FakeJudge(["Ready!"]) as server:
        assert make(server).probe(12).cost is None
        make(server).probe(0)
        assert len(server.requests) == 1


def test_the_probe_asks_again_although_its_answer_was_heard_before(make):
    with FakeJudge(["Ready!"]) as server:
        make(server).probe(1)
        make(server).probe(1)
        assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (nonsense(), "no chat completion: '<html><body>Please log in"),
        (truncated(), "no chat completion"),
        (answer(""), "empty"),
        (500, "status 500"),
        (error(400, "temperature must be 1"), "temperature must be 1"),
        (error(301), "status 301"),
        (hang_up(), "no connection"),
    ],
)
def test_the_probe_refuses_what_is_no_judge(make, reply, reason):
    with FakeJudge([reply]) as server, pytest.raises(CorlError) as failure:
        make(server).probe(100)
    assert reason in failure.value.message
    assert server.base_url in failure.value.message
    assert failure.value.hint


def test_the_probe_says_where_nobody_listens(tmp_path):
    url = f"http://127.0.0.1:{unused_port()}/v1"
    judge = Judge(evaluation.Judge(base_url=url, model="m", key_variable=None), cache=tmp_path)
    with pytest.raises(CorlError, match="no connection") as failure:
        judge.probe(100)
    assert url in failure.value.message


@pytest.mark.parametrize("value", [None, "", "  "])
def test_an_empty_key_is_missing_before_anything_is_asked(make, monkeypatch, value):
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with FakeJudge(["yes"]) as server:
        judge = make(server, key_variable="JUDGE_KEY")
        (need,) = judge.requirements()
        assert (need.state, "JUDGE_KEY" in need.detail, "JUDGE_KEY" in need.remedy) == ("missing", True, True)
        with pytest.raises(CorlError, match="JUDGE_KEY"):
            judge.probe(3)
        assert server.requests == []


def test_a_key_that_is_there_and_a_judge_without_one_are_well(make, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", SECRET)
    with FakeJudge(["yes"]) as server:
        assert make(server, key_variable="JUDGE_KEY").requirements()[0].met
        assert make(server).requirements()[0].met


def test_an_address_without_http_is_broken(tmp_path):
    judge = Judge(evaluation.Judge(base_url="localhost:8000/v1", model="m", key_variable=None), cache=tmp_path)
    assert judge.requirements()[0].state == "broken"


def test_the_key_is_sent_and_never_told(make, monkeypatch, tmp_path):
    monkeypatch.setenv("JUDGE_KEY", f"{SECRET}\n")
    told = []
    replies = ["yes", error(400, f"bad {SECRET}"), error(500, SECRET), error(401, f"Incorrect API key: {SECRET}")]
    for reply in replies:
        with FakeJudge([reply]) as server:
            judge = make(server, key_variable="JUDGE_KEY", retries=0)
            told += [str(judge.identity()), str(judge.requirements())]
            try:
                judge.ask("t-1", f"{len(told)}?")
            except (JudgeError, CorlError) as failure:
                told += [str(failure), repr(failure), str(getattr(failure, "hint", ""))]
            try:
                judge.probe(1)
            except CorlError as failure:
                told += [str(failure), str(failure.hint)]
            assert server.requests[0].headers["Authorization"] == f"Bearer {SECRET}"
    assert SECRET not in "\n".join(told)
    assert "[key]" in "\n".join(told)
    assert [path for path in files(tmp_path) if SECRET in path.read_text()] == []
    assert files(tmp_path)


@pytest.mark.parametrize("key", ["sk\nX-Evil: 1", "sk-é", "two words"])
def test_a_key_that_no_header_takes_is_refused_unseen(make, monkeypatch, key):
    monkeypatch.setenv("JUDGE_KEY", key)
    with FakeJudge(["yes"]) as server, pytest.raises(CorlError, match="JUDGE_KEY") as failure:
        make(server, key_variable="JUDGE_KEY").probe(1)
    assert key not in str(failure.value)


def test_a_password_in_the_address_is_refused_because_results_keep_it():
    with pytest.raises(ValidationError, match="use key_variable"):
        evaluation.Judge(base_url=f"http://me:{SECRET}@127.0.0.1:8000/v1", model="m", key_variable=None)


def test_an_image_that_is_not_there_fails_its_item_only(make, tmp_path):
    with FakeJudge(["yes"]) as server, pytest.raises(JudgeError, match=r"0000\.png cannot be read"):
        make(server).ask("t-1", "?", tmp_path / "0000.png")


def test_threads_with_the_same_question_all_get_its_answer(make):
    with FakeJudge(lambda request: slow("yes", 0.05)) as server:
        judge = make(server, concurrency=8)
        made = [result for _, result in judge.map(lambda _: judge.ask("t-1", "same"), range(16))]
    assert made == ["yes"] * 16
    assert len(server.requests) <= 8  # no thread asks twice what it has kept itself
