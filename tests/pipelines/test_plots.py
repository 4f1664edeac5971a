"""What the figures of a run hold."""

from __future__ import annotations

import math
import re
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from corl_cli.core import pages
from corl_cli.core.errors import CorlError
from corl_cli.core.loader import dump
from corl_cli.pipelines import plots
from corl_cli.pipelines.panels import COLOURS, smooth
from corl_cli.pipelines.summary import Story
from corl_cli.trainer.album import Entry, Look


def probe(task: str, mean: float | None, **other: object) -> dict[str, object]:
    values = {"score": "x", "answer_type": "", "temperature": 1.0, "stderr": 0.1, "items": 4, "failed": 0}
    return {"task": task, "mean": mean} | values | other


def step(number: int, **metrics: object) -> dict[str, object]:
    return {"step": number, **{name.replace("__", "/"): value for name, value in metrics.items()}, "seconds": number}


@pytest.fixture
def story(rig):
    """`story(lines, label)` of a run that draws for a reward `checker` and answers for `accuracy`."""
    made = rig(t2i=[{"name": "checker"}], mm2t=[{"name": "accuracy"}])

    def tell(lines, label="run", **changes):
        recipe = made.recipe.model_copy(update=changes)
        return Story(label=label, run=made.run, recipe=recipe, metrics=lines)

    return tell


def imitating(recipe):
    return recipe.train.model_copy(update={"method": "sft"})


def titles(figures):
    return [figure.texts[0].get_text().partition(": ")[2] for figure in figures]


def lines(axis):
    """Steps, values and colour of every line that joins points."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()), line.get_color())
        for line in axis.get_lines()
        if line.get_linestyle() != "None"
    ]


def keys(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_a_running_mean_and_its_standard_error_by_hand():
    mean, stderr = smooth([1.0, 3.0, 8.0, 1.0], width=3)
    assert list(mean) == [1.0, 2.0, 4.0, 4.0]
    assert math.isnan(stderr[0])  # of one value
    assert list(stderr[1:]) == pytest.approx([1.0, math.sqrt(13 / 3), math.sqrt(13 / 3)])
    assert list(smooth([5.0] * 30).stderr[1:]) == [0.0] * 29


def test_held_out_scores_have_a_panel_each_with_both_temperatures(story):
    read = [
        {"step": at, "probe": probe("mm2t", mean, answer_type=kind, temperature=temperature)}
        for at, mean in ((0, 0.5), (2, None), (4, 0.75))
        for kind in ("", "mc")
        for temperature in (1.0, 0.0)
    ]
    figure = plots.held_out([story(read)], "mm2t")
    assert [axis.get_title("left") for axis in figure.axes] == ["x", "x (mc)"]
    assert lines(figure.axes[0]) == [([0, 4], [0.5, 0.75], COLOURS[0])] * 2  # a reading without a score is no point
    trained, other = figure.axes[0].get_lines()[0], figure.axes[0].containers[1].lines[0]
    assert trained.get_linestyle() == "-"
    assert other.get_linestyle() == "--"
    low, high = figure.axes[0].containers[0].lines[2][0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((0.65, 0.85))
    assert keys(figure) == ["T = 1 (training)", "T = 0"]
    assert plots.held_out([story(read)], "t2i") is None


def test_several_runs_have_a_colour_each_and_keys_where_they_are_drawn(story):
    drawing = [step(1, reward__t2i__checker=0.5), step(2, reward__t2i__checker=0.7)]
    answering = [step(1, reward__mm2t__accuracy=0.25), *drawing[1:]]
    stories = [story(drawing, "a/run"), story(answering, "b/run")]
    (checker,) = plots.rewards(stories, "t2i")
    assert lines(checker.axes[0]) == [([1, 2], [0.5, 0.6], COLOURS[0]), ([2], [0.7], COLOURS[1])]
    assert keys(checker) == ["a/run", "b/run"]
    (accuracy,) = plots.rewards(stories, "mm2t")
    assert lines(accuracy.axes[0]) == [([1], [0.25], COLOURS[1])]
    assert keys(accuracy) == ["b/run"]
    assert keys(plots.rewards(stories[:1], "t2i")[0]) == []


def test_rewards_of_tasks_by_turns_are_smoothed_over_their_own_steps(story):
    told = story([step(at, **{f"reward__{'t2i' if at % 2 else 'mm2t'}__total": at}) for at in range(1, 25)])
    (total,) = plots.rewards([told], "t2i")
    steps, values, _ = lines(total.axes[0])[0]
    assert steps == list(range(1, 24, 2))
    assert values[-1] == sum(range(5, 24, 2)) / 10
    raw = total.axes[0].get_lines()[0]
    assert list(raw.get_ydata()) == steps
    band = total.axes[0].collections[0].get_paths()[0].get_extents()
    assert band.x1 == 23


def test_the_total_comes_first_and_a_dollar_in_a_name_is_a_dollar(story):
    told = story([step(1, **{"reward__t2i__a$b$c": 1.0, "reward__t2i__total": 2.0, "reward__t2i__none": None})])
    figures = plots.rewards([told], "t2i")
    assert titles(figures) == ["total", "a$b$c"]
    assert "a$b$c" in pages.figure(figures[1])


def test_imitation_is_drawn_by_its_loss(story):
    metrics = [step(at, nll__t2i=1.0 / at, entropy__t2i=2.0) for at in (1, 2)]
    told = story(metrics)
    assert plots.rewards([told], "t2i") == []  # the nll of samples is no loss
    sft = story(metrics, train=imitating(told.recipe))
    (loss,) = plots.rewards([sft], "t2i")
    assert titles([loss]) == ["loss of the targets, nats a token"]
    assert plots.rewards([sft], "mm2t") == []


def test_health_shows_what_was_measured_and_can_tell_something(story):
    measured = {"entropy": 2.0, "kl": 0.1, "zero_variance": 0.0, "masked": 0.0, "length": 16, "clipped_low": 0.0}
    told = story([step(1, **{f"{name}__t2i": value for name, value in measured.items()})])
    shown = ["entropy, nats a token", "KL to the start, nats a token", "groups with equal rewards"]
    assert titles(plots.health([told], "t2i")) == shown  # nothing is masked, drawings are as long, nothing clips
    clipping = told.recipe.algo.model_copy(update={"clip_eps": 0.2})
    told = story([step(1, clipped_low__mm2t=0.1, length__mm2t=9.0, masked__mm2t=0.5)], algo=clipping)
    found = titles(plots.health([told], "mm2t"))
    assert found == ["samples without an advantage", "tokens of a completion", "tokens clipped below"]


def test_shares_of_rewards_have_a_panel_each_where_there_are_several(story):
    (figure,) = plots.health([story([step(1, share__t2i__a=1.25, share__t2i__b=-0.25)])], "t2i")
    assert [axis.get_title("left") for axis in figure.axes] == ["a", "b"]
    assert lines(figure.axes[1]) == [([1], [-0.25], COLOURS[0])]
    assert plots.health([story([step(1, share__t2i__a=1.0)])], "t2i") == []


def test_seconds_are_stacked_by_phase_for_one_run_and_summed_for_several(story):
    first = story([step(at, time__rollout=2.0, time__update=at, time__reward__t2i__a=9.0) for at in (1, 2)], "first")
    figure = plots.machine([first])[-1]
    assert keys(figure) == ["rollout", "update"]
    tops = [area.get_paths()[0].get_extents().y1 for area in figure.axes[0].collections]
    assert tops == [2.0, 4.0]
    second = story([step(1, time__rollout=1.0)], "second")
    figure = plots.machine([first, second])[-1]
    assert [values for _, values, _ in lines(figure.axes[0])] == [[3.0, 3.5], [1.0]]
    assert plots.machine([story([])]) == []


def test_peak_memory_is_not_smoothed(story):
    (figure,) = plots.machine([story([step(1, memory__peak_gib=1.0), step(2, memory__peak_gib=4.0)])])
    assert lines(figure.axes[0]) == [([1, 2], [1.0, 4.0], COLOURS[0])]


def test_more_runs_than_colours_still_differ(story):
    stories = [
        story([*(step(n, grad_norm=float(at)) for n in (1, 2)), {"step": 1, "probe": probe("t2i", 0.5)}], f"run {at}")
        for at in range(20)
    ]
    (figure,) = plots.machine(stories)
    svg = pages.figure(figure)
    for width in ("1.6", "3"):  # of lines and of keys
        drawn = re.findall(rf'style="fill: none; ([^"]*stroke: #\w+; stroke-width: {width}[;"])', svg)
        assert len(set(drawn)) == 20
    read = plots.held_out(stories, "t2i").axes[0].containers
    assert len({(bar.lines[0].get_color(), bar.lines[0].get_marker()) for bar in read}) == 20


def test_a_long_line_is_thinned_and_keeps_its_ends(story):
    told = story([step(at, reward__t2i__checker=float(at)) for at in range(1, 10_001)])
    (figure,) = plots.rewards([told], "t2i")
    raw, mean = figure.axes[0].get_lines()
    assert len(raw.get_xdata()) == 10_000
    assert len(mean.get_xdata()) <= 300
    assert (mean.get_xdata()[0], mean.get_xdata()[-1], mean.get_ydata()[-1]) == (1, 10_000, 9995.5)
    phases = plots.machine([story([step(at, time__rollout=1.0 + at % 5) for at in range(1, 10_001)])])
    assert len(pages.figure(phases[-1])) < 100_000


def test_many_points_go_into_a_page_as_pixels(story):
    def svg(steps):
        told = story([step(at, grad_norm=at % 7) for at in range(1, steps + 1)])
        return pages.figure(plots.machine([told])[0])

    assert "<image" not in svg(50)
    assert "<image" in svg(1000)
    assert len(svg(1000)) < 200_000


def look(at: int, drawings: int = 4) -> Look:
    real = Image.new("RGB", (160, 160), "red")
    drawn = {"prompt": "a red square", "drawings": [Image.new("RGB", (160, 160), "blue")] * drawings}
    answered = {"question": "what colour?", "answer": "red", "answers": ["<answer> blue </answer>", "<answer> red"]}
    return Look(step=at, entries=[Entry(real=real, **(drawn if drawings else {}), **answered)] * 6)


def opened(png: bytes) -> Image.Image:
    with Image.open(BytesIO(png)) as image:
        return image.convert("RGB")


def colours(image: Image.Image) -> dict[object, int]:
    return {colour: count for count, colour in image.getcolors(2**24)}


READ = [{"step": at, "probe": probe(task, 0.5)} for at in (0, 8) for task in ("t2i", "mm2t")]
RED, BLUE, CELL = (255, 0, 0), (0, 0, 255), 160 * 160


def test_the_picture_holds_all_samples_of_the_first_and_the_last_look(story):
    told = story([*READ, step(8)])
    image = opened(plots.picture(told, [look(0), look(4), look(8)]))
    assert image.width == 1920
    assert colours(image)[BLUE] == pytest.approx(4 * 8 * CELL, rel=0.05)  # frames lie over the edges
    assert colours(image)[RED] == pytest.approx(4 * CELL, rel=0.05)
    begun = opened(plots.picture(told, [look(0)]))
    assert begun.size == image.size
    assert colours(begun)[BLUE] == pytest.approx(4 * 4 * CELL, rel=0.05)


def test_the_picture_says_what_the_run_did(story):
    ends = [("t2i", 0, 0.25, 1.0), ("t2i", 0, 0.5, 0.0), ("t2i", 8, 0.75, 1.0), ("t2i", 8, 0.625, 0.0)]
    read = [{"step": at, "probe": probe(task, mean, temperature=warm)} for task, at, mean, warm in ends]
    trained = [step(at, length__t2i=16.0, length__mm2t=9.0) for at in range(1, 9)]
    figure = plots.poster(story([*read, *trained], "here/run"), [look(0), look(8)])
    words = [text.get_text() for text in figure.texts]
    assert words[:2] == ["here/run", "8 steps, 1,024 samples trained on; recipe rig, seed 0"]  # 8 x 16 x 4 x 2
    assert {"before training", "after 8 steps", "Drawing: x, 4 held-out items"} <= {*words}
    assert "T = 1, as in training: 0.250 ± 0.100 → 0.750 ± 0.100" in words
    assert "T = 0: 0.500 ± 0.100 → 0.625 ± 0.100" in words
    assert lines(figure.axes[-1])[0] == ([0, 8], [0.25, 0.75], COLOURS[0])


def test_the_picture_of_a_run_that_was_not_read_has_no_curves(story):
    looks = [look(0), look(8)]
    without, read = (opened(plots.picture(story([*lines, step(8)]), looks)) for lines in ([], READ))
    assert without.height < read.height
    line = tuple(int(COLOURS[0][at : at + 2], 16) for at in (1, 3, 5))
    assert line in colours(read)
    assert line not in colours(without)


def test_the_picture_of_a_run_that_only_answers_shows_its_answers(story):
    figure = plots.poster(story([*READ, step(8)]), [look(0, drawings=0), look(8, drawings=0)])
    words = [text.get_text() for text in figure.texts]
    assert (words.count("blue"), words.count("(no answer)")) == (8, 8)  # of 4 items at 2 looks; a block is not closed
    assert "what colour? (red)" in words


def test_a_run_without_samples_has_no_picture(story):
    with pytest.raises(CorlError, match="no samples to show"):
        plots.picture(story(READ), [])


def test_a_story_of_files_can_be_drawn_at_its_very_start(rig):
    made = rig(mm2t=[{"name": "accuracy"}])
    Path(made.run.recipe_file).write_text(dump(made.recipe))
    told = Story.read(made.run.path)
    assert (plots.held_out([told], "mm2t"), plots.rewards([told], "mm2t"), plots.health([told], "mm2t")) == (
        None,
        [],
        [],
    )
