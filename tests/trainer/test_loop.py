"""The loop on a random tiny Janus with rewards that a test can reason about."""

from __future__ import annotations

import copy
import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Recipe
from corl_cli.core.run_dir import RunDir
from corl_cli.core.types import Experience, Rollout, Task, Triplet
from corl_cli.data.batches import ShuffledBatches
from corl_cli.models.base import UnifiedPolicy
from corl_cli.models.janus import JanusPolicy
from corl_cli.rewards.base import Criterion, Options, Reward, Rubric, Scores
from corl_cli.trainer.distributed import Replicated
from corl_cli.trainer.journal import Journal
from corl_cli.trainer.loop import Trainer
from corl_cli.trainer.probes import Reading
from corl_cli.trainer.schedule import turn
from corl_cli.world.items import WorldTriplets


class Low(Reward):
    """Pays for small token ids: something a policy can learn in a few steps."""

    def __init__(self, task: Task) -> None:
        super().__init__(Options())
        self.task = task  # type: ignore[misc]

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        mask = rollout.completion_mask.float()
        low = (rollout.completion_ids < 32).float() * mask
        return Scores(values=low.sum(1) / mask.sum(1))


class Broken(Low):
    """Fails on every third row."""

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        values = super().score(rollout, policy).values.clone()
        values[::3] = math.nan
        return Scores(values=values)


class Silent:
    """A display that shows nothing."""

    def say(self, line: str) -> None: ...

    def step(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def readings(self, step: int, readings: Sequence[Reading]) -> None: ...


def make_recipe(**sections: dict[str, object]) -> Recipe:
    """A small recipe; each section given is merged over its own here."""
    base: dict[str, Any] = {
        "name": "test",
        "sampling": {"group_size": 4, "mm2t": {"max_new_tokens": 8}},
        "rewards": {"t2i": [{"name": "low"}], "mm2t": [{"name": "low"}]},
        "optim": {"lr": 3e-3, "schedule": "constant"},
        "train": {"batch_size": 4, "max_steps": 10},
    }
    return Recipe.model_validate(base | {name: base.get(name, {}) | value for name, value in sections.items()})


def make_trainer(
    policy: JanusPolicy, tmp_path: Path, recipe: Recipe, reward: type[Low] | type[Looks] = Low, on_error: str = "stop"
) -> Trainer:
    policy = copy.deepcopy(policy)
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(policy.trainable(), lr=recipe.optim.lr, weight_decay=0.0)
    strategy = Replicated(policy)
    run = RunDir(tmp_path)
    for folder in (run.samples, run.rollouts, run.checkpoints):
        folder.mkdir(exist_ok=True)
    num_steps = recipe.train.max_steps or 0
    journal = Journal(
        run=run,
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        optimizer=optimizer,
        probes=None,
        samples=[],
        display=Silent(),
        num_steps=num_steps,
    )
    rubrics = {
        task: Rubric(task, [Criterion(name="low", weight=1.0, on_error=on_error, reward=reward(task))])
        for task in recipe.train.tasks
    }
    return Trainer(
        recipe=recipe,
        accelerator=accelerator,
        strategy=strategy,
        reference=None,
        rubrics=rubrics,
        batches=ShuffledBatches(WorldTriplets("train", 64), recipe.train.batch_size, 9, seed=0),
        optimizer=optimizer,
        journal=journal,
        num_steps=num_steps,
    )


def _batch(trainer: Trainer) -> dict[Task, Experience]:
    triplets: list[Triplet] = list(trainer.batches[0])
    rollouts = {
        task: trainer.strategy.actor.sample(task, triplets, sampling, key="x")
        for task, sampling in ((task, trainer.recipe.sampling.of(task)) for task in trainer.recipe.train.tasks)
    }
    rewards = {task: trainer.rubrics[task](rollout, trainer.strategy.actor) for task, rollout in rollouts.items()}
    return trainer.experience(rollouts, rewards)


def _gradient(trainer: Trainer, batch: Mapping[Task, Experience]) -> torch.Tensor:
    trainer.optimizer.zero_grad()
    trainer.updater.accumulate(batch)
    return _flat(trainer.strategy.actor)


def _flat(policy: UnifiedPolicy) -> torch.Tensor:
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in policy.trainable()])


@pytest.mark.parametrize("credit", ["joint", "per_task"])
def test_micro_batches_add_up_to_the_whole_batch(policy: JanusPolicy, tmp_path: Path, credit: str) -> None:
    whole = make_trainer(policy, tmp_path, make_recipe(algo={"credit": credit}))
    pieces = make_trainer(policy, tmp_path, make_recipe(algo={"credit": credit}, train={"micro_batch_size": 1}))
    batch = _batch(whole)
    expected, found = _gradient(whole, batch), _gradient(pieces, batch)
    assert expected.norm() > 0.01
    assert torch.allclose(found, expected, atol=1e-5)


def test_checkpointed_layers_give_the_same_gradient_and_samples(policy: JanusPolicy, tmp_path: Path) -> None:
    plain, saving = (make_trainer(policy, tmp_path, make_recipe()) for _ in range(2))
    saving.strategy.actor.checkpoint_layers()
    batch = _batch(plain)
    once, twice = _layer_runs(plain), _layer_runs(saving)
    assert torch.allclose(_gradient(saving, batch), _gradient(plain, batch), atol=1e-6)
    assert (len(once), len(twice)) == (2, 4), "once a task, and once more in the backward pass"
    again = _batch(saving)
    assert torch.equal(again["mm2t"].rollout.completion_ids, batch["mm2t"].rollout.completion_ids)


def _layer_runs(trainer: Trainer) -> list[None]:
    """A list that grows by one each time the first layer's norm runs."""
    runs: list[None] = []
    layer = trainer.strategy.actor.model.model.language_model.layers[0]  # type: ignore[attr-defined]
    layer.input_layernorm.register_forward_hook(lambda *_: runs.append(None))
    return runs


def test_lambda_weighs_the_text_loss_under_per_task_credit(policy: JanusPolicy, tmp_path: Path) -> None:
    trainers = {
        weight: make_trainer(policy, tmp_path, make_recipe(algo={"credit": "per_task", "mm2t_weight": weight}))
        for weight in (0.0, 1.0, 3.0)
    }
    nothing, once, thrice = (_gradient(trainer, _batch(trainer)) for trainer in trainers.values())
    assert torch.allclose(thrice - nothing, 3 * (once - nothing), atol=1e-5)
    assert (once - nothing).norm() > 0.01


def test_the_loss_is_the_papers_mean_over_rows_of_mean_over_tokens(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(train={"tasks": ["mm2t"]}, algo={"credit": "per_task", "mm2t_weight": 1.0})
    trainer = make_trainer(policy, tmp_path, recipe)
    batch = _batch(trainer)
    found = _gradient(trainer, batch).clone()
    trainer.optimizer.zero_grad()
    rollout, advantages = batch["mm2t"].rollout, batch["mm2t"].advantages
    rows = [
        row[kept].mean()
        for row, kept in zip(trainer.strategy.actor(rollout).logps, rollout.completion_mask, strict=True)
    ]
    (-torch.stack(rows) * advantages).mean().backward()
    assert found.norm() > 0.001
    assert torch.allclose(found, _flat(trainer.strategy.actor), atol=1e-6)


def test_training_raises_the_reward_of_both_tasks(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(train={"max_steps": 14}, algo={"credit": "per_task", "mm2t_weight": 1.0})
    trainer = make_trainer(policy, tmp_path, recipe)
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward/t2i/total" in line]
    assert [line["step"] for line in steps] == list(range(1, 15))
    for task in ("t2i", "mm2t"):
        rewards = [line[f"reward/{task}/total"] for line in steps]
        assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1


def test_a_reward_that_is_not_a_number_stops_the_run(policy: JanusPolicy, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe(), Broken)
    with pytest.raises(CorlError, match="Reward 'low' gave nan for sample 0") as caught:
        trainer.fit()
    assert "rewards.t2i.low.on_error=mask" in str(caught.value.hint)


def test_masked_rows_do_not_touch_the_gradient(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(algo={"credit": "per_task"})
    trainer = make_trainer(policy, tmp_path, recipe, Broken, on_error="mask")
    batch = _batch(trainer)
    before = _gradient(trainer, batch)
    ids = batch["t2i"].rollout.completion_ids.clone()
    ids[::3] = 0
    other = {**batch, "t2i": replace(batch["t2i"], rollout=replace(batch["t2i"].rollout, completion_ids=ids))}
    assert not batch["t2i"].rows[::3].any()
    assert torch.allclose(_gradient(trainer, other), before, atol=1e-6)
    trainer.fit()  # and a whole run goes through
    assert json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])["masked/t2i"] == pytest.approx(6 / 16)


class Hopeless(Low):
    """Never has a score."""

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        return Scores(values=torch.full((len(rollout),), math.nan), notes=["no judge"] * len(rollout))


def test_a_step_without_any_reward_stops_even_where_rows_are_masked(policy: JanusPolicy, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe(), Hopeless, on_error="mask")
    with pytest.raises(CorlError, match="t2i low failed for 16 of 16: no judge"):
        trainer.fit()


def test_each_reward_has_its_own_metrics(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(algo={"credit": "per_task"}, train={"max_steps": 1})
    make_trainer(policy, tmp_path, recipe, Broken, on_error="mask").fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    (step,) = [line for line in lines if "seconds" in line]
    for task in ("t2i", "mm2t"):
        assert step[f"failed/{task}/low"] == pytest.approx(6 / 16)
        assert 0 <= step[f"zero_variance/{task}/low"] <= 1
        assert step[f"time/reward/{task}/low"] > 0
        assert step[f"share/{task}/low"] == pytest.approx(1)


def test_the_first_of_several_iterations_has_ratio_one(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(algo={"num_iterations": 2, "clip_eps": 0.2, "credit": "per_task"})
    trainer = make_trainer(policy, tmp_path, recipe)
    batch = _batch(trainer)
    assert batch["t2i"].old_logps is not None
    first = trainer.updater.accumulate(batch)
    assert first["clipped_low/t2i"] == first["clipped_high/t2i"] == 0.0
    once = make_trainer(policy, tmp_path, make_recipe(algo={"credit": "per_task"}))
    assert torch.allclose(_gradient(trainer, batch), _gradient(once, _batch(once)), atol=1e-5)


def test_beta_pulls_towards_the_reference(policy: JanusPolicy, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe(algo={"beta": 0.5, "credit": "per_task"}))
    trainer.reference = copy.deepcopy(trainer.strategy.actor)
    with torch.no_grad():
        for parameter in trainer.strategy.actor.trainable():
            parameter.add_(0.02 * torch.randn_like(parameter))
    batch = {task: replace(e, advantages=torch.zeros_like(e.advantages)) for task, e in _batch(trainer).items()}
    before = trainer.updater.accumulate(batch)
    trainer.optimizer.param_groups[0]["lr"] = 1e-4
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    after = trainer.updater.accumulate(batch)
    for task in ("t2i", "mm2t"):
        assert 0 < after[f"kl/{task}"] < before[f"kl/{task}"]


def _break(trainer: Trainer) -> list[torch.Tensor]:
    """Weights that no finite gradient comes of; returns all of them."""
    weights = trainer.strategy.actor.trainable()
    with torch.no_grad():
        weights[-1][0, 0] = math.inf
    return [weight.clone() for weight in weights]


def test_a_gradient_that_is_not_finite_takes_no_step_and_stops_the_run_after_some(
    policy: JanusPolicy, tmp_path: Path
) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe(optim={"max_skipped": 2}))
    batch = _batch(trainer)
    before = _break(trainer)
    for step in (0, 1):
        assert trainer.updater.update(batch, step)["skipped"] == 1.0
    with pytest.raises(CorlError, match=r"gradient of step 3 has norm nan, and the 2 steps before it were skipped"):
        trainer.updater.update(batch, step=2)
    assert all(torch.equal(old, new) for old, new in zip(before, trainer.strategy.actor.trainable(), strict=True))
    assert not trainer.optimizer.state


def test_a_gradient_that_explodes_is_skipped_and_a_good_one_starts_the_count_again(
    policy: JanusPolicy, tmp_path: Path
) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe(optim={"skip_above": 1e-9}))
    batch = _batch(trainer)
    start = [weight.clone() for weight in trainer.strategy.actor.trainable()]
    assert trainer.updater.update(batch, step=0)["skipped"] == 1.0
    assert trainer.updater.skipped == 1
    assert all(torch.equal(old, new) for old, new in zip(start, trainer.strategy.actor.trainable(), strict=True))
    trainer.updater.recipe = make_recipe(optim={"skip_above": 1e9})
    assert trainer.updater.update(batch, step=1)["skipped"] == 0.0
    assert trainer.updater.skipped == 0


@pytest.mark.parametrize("loss", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_a_masked_row_touches_no_reduction(policy: JanusPolicy, tmp_path: Path, loss: str) -> None:
    recipe = make_recipe(algo={"credit": "per_task", "loss": loss, "ratio": "sequence"})
    trainer = make_trainer(policy, tmp_path, recipe, Broken, on_error="mask")
    batch = _batch(trainer)
    before = _gradient(trainer, batch)
    ids = batch["mm2t"].rollout.completion_ids.clone()
    ids[::3] = 5
    changed = replace(batch["mm2t"], rollout=replace(batch["mm2t"].rollout, completion_ids=ids))
    assert before.norm() > 0.001
    assert torch.allclose(_gradient(trainer, batch | {"mm2t": changed}), before, atol=1e-6)


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "dapo"])
def test_micro_batches_add_up_under_every_reduction_but_bnpo(policy: JanusPolicy, tmp_path: Path, loss: str) -> None:
    whole, pieces = (
        make_trainer(policy, tmp_path, make_recipe(algo={"loss": loss}, train={"micro_batch_size": size}))
        for size in (None, 1)
    )
    batch = _batch(whole)
    assert torch.allclose(_gradient(pieces, batch), _gradient(whole, batch), atol=1e-5)


def test_cut_answers_leave_the_loss_but_not_the_baseline(policy: JanusPolicy, tmp_path: Path) -> None:
    plain, masking = (
        make_trainer(policy, tmp_path, make_recipe(algo={"credit": "per_task", "mask_truncated": masked}))
        for masked in (False, True)
    )
    every, uncut = _batch(plain)["mm2t"], _batch(masking)["mm2t"]
    cut = uncut.rollout.truncated
    assert 0 < cut.sum() < len(cut)
    assert torch.equal(uncut.rows, ~cut)
    assert torch.equal(uncut.advantages[~cut], every.advantages[~cut])
    assert not uncut.advantages[cut].any()
    assert every.rows.all()


def test_the_gradients_of_the_tasks_are_measured_apart_and_add_up(policy: JanusPolicy, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe(algo={"credit": "per_task"}))
    batch = _batch(trainer)
    alone = {}
    for task, experience in batch.items():
        trainer.optimizer.zero_grad()
        trainer.updater.accumulate({task: experience})
        alone[task] = _flat(trainer.strategy.actor)
    whole = _gradient(trainer, batch)
    trainer.optimizer.zero_grad()
    found = trainer.updater.accumulate(batch, apart=True)
    assert torch.allclose(_flat(trainer.strategy.actor), whole, atol=1e-6)
    assert found["grad_norm/t2i"] == pytest.approx(float(alone["t2i"].norm()), rel=1e-4)
    assert found["grad_norm/mm2t"] == pytest.approx(float(alone["mm2t"].norm()), rel=1e-4)
    cosine = torch.cosine_similarity(alone["t2i"], alone["mm2t"], dim=0)
    assert found["grad_cosine"] == pytest.approx(float(cosine), abs=1e-4)


def test_tasks_by_turns(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(algo={"credit": "per_task"}, train={"max_steps": 4, "cycle": {"every": 2}})
    make_trainer(policy, tmp_path, recipe).fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line]
    assert [[task for task in ("t2i", "mm2t") if f"reward/{task}/total" in line] for line in steps] == [
        ["t2i"], ["t2i"], ["mm2t"], ["mm2t"]
    ]  # fmt: skip


def test_turns_may_last_epochs() -> None:
    train = make_recipe(algo={"credit": "per_task"}, train={"cycle": {"every": 1, "unit": "epochs"}}).train
    assert [turn(train, step, 3) for step in (0, 2, 3, 5, 6)] == [["t2i"], ["t2i"], ["mm2t"], ["mm2t"], ["t2i"]]


def test_imitation_makes_the_datas_own_targets_likelier(policy: JanusPolicy, tmp_path: Path) -> None:
    sections = {"method": "sft", "max_steps": 12, "batch_size": 4}
    trainer = make_trainer(policy, tmp_path, make_recipe(algo={"credit": "per_task"}, train=sections))
    trainer.fit()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "seconds" in line]
    for task in ("t2i", "mm2t"):
        assert steps[-1][f"nll/{task}"] < steps[0][f"nll/{task}"] - 0.05
        assert steps[0][f"loss/{task}"] == pytest.approx(steps[0][f"nll/{task}"])


def test_the_gradient_of_imitation_is_that_of_the_mean_over_rows_of_mean_log_probs(
    policy: JanusPolicy, tmp_path: Path
) -> None:
    recipe = make_recipe(algo={"credit": "per_task"}, train={"method": "sft", "tasks": ["mm2t"]})
    trainer = make_trainer(policy, tmp_path, recipe)
    batch = trainer.imitate(list(trainer.batches[0]), ["mm2t"])
    found = _gradient(trainer, batch).clone()
    trainer.optimizer.zero_grad()
    rollout = batch["mm2t"].rollout
    logps = trainer.strategy.actor(rollout).logps
    (-(logps.sum(1) / rollout.completion_mask.sum(1)).mean()).backward()
    assert torch.allclose(found, _flat(trainer.strategy.actor), atol=1e-6)


class Picky(Low):
    """Has a different score for each sample of the triplets whose number is odd; all others are worth the same."""

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        odd = torch.tensor([int(triplet.id.rsplit("-", 1)[1]) % 2 for triplet in rollout.triplets])
        return Scores(values=odd * torch.arange(len(rollout)) / len(rollout), notes=[t.id for t in rollout.triplets])


def test_dull_triplets_give_way_to_others_in_a_bounded_number_of_rounds(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(algo={"credit": "per_task", "dynamic_sampling": 9}, train={"max_steps": 1})
    trainer = make_trainer(policy, tmp_path, recipe, Picky)
    batch, found = trainer.reinforce(0, ["t2i", "mm2t"], since=0)
    start = trainer.batches[0]
    numbers = [int(triplet.id.rsplit("-", 1)[1]) for triplet in batch["t2i"].rollout.triplets[::4]]
    assert all(number % 2 for number in numbers)
    assert len(set(numbers)) == 4
    dull = [triplet.id for triplet in start if int(triplet.id.rsplit("-", 1)[1]) % 2 == 0]
    assert found["replaced"] >= len(dull) > 0
    for experience in batch.values():
        ids = [triplet.id for triplet in experience.rollout.triplets]
        assert experience.rewards is not None
        assert experience.rewards.notes["low"] == ids  # rewards still belong to their rows
        again = trainer.score(experience.rollout)
        assert torch.allclose(again, experience.rollout.logps, atol=1e-4)  # and so do tokens and prompts
    assert [t.id for t in batch["t2i"].rollout.triplets] == [t.id for t in batch["mm2t"].rollout.triplets]


def test_dynamic_sampling_gives_up_after_its_rounds(policy: JanusPolicy, tmp_path: Path) -> None:
    class Flat(Low):
        def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
            return Scores(values=torch.ones(len(rollout)))

    recipe = make_recipe(algo={"credit": "per_task", "dynamic_sampling": 2}, train={"max_steps": 1})
    trainer = make_trainer(policy, tmp_path, recipe, Flat)
    _, found = trainer.reinforce(0, ["t2i", "mm2t"], since=0)
    assert found["replaced"] == 8.0  # four triplets, twice


def test_a_state_saved_before_a_task_had_its_turn_goes_on_exactly(policy: JanusPolicy, tmp_path: Path) -> None:
    """Drawing leaves lm_head without a gradient, and so without a state of the optimiser."""
    recipe = make_recipe(algo={"credit": "per_task"}, train={"cycle": {"every": 1}})
    whole = make_trainer(policy, tmp_path, recipe)
    whole.updater.update(whole.reinforce(0, ["t2i"], since=0)[0], 0)
    weights, state = copy.deepcopy(whole.strategy.save(whole.optimizer))
    names = {name for name, _ in whole.strategy.actor.named_parameters()}
    assert set(state) < names
    assert not any("lm_head" in name for name in state)
    resumed = make_trainer(policy, tmp_path, recipe)
    resumed.strategy.actor.model.load_state_dict(weights)  # type: ignore[attr-defined]
    resumed.strategy.restore(resumed.optimizer, state)
    for step, task in ((1, "mm2t"), (2, "t2i")):
        for trainer in (whole, resumed):
            trainer.updater.update(trainer.reinforce(step, [task], since=step)[0], step)  # type: ignore[list-item]
    pairs = zip(whole.strategy.actor.parameters(), resumed.strategy.actor.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_saving_changes_nothing(policy: JanusPolicy, tmp_path: Path) -> None:
    trainer = make_trainer(policy, tmp_path, make_recipe())
    assert trainer.strategy.save(trainer.optimizer)[1] == {}
    assert not trainer.optimizer.state


def test_iterations_that_are_skipped_are_counted_and_a_batch_of_them_is_one_in_a_row(
    policy: JanusPolicy, tmp_path: Path
) -> None:
    recipe = make_recipe(algo={"num_iterations": 3}, optim={"skip_above": 1e-9, "max_skipped": 1})
    trainer = make_trainer(policy, tmp_path, recipe)
    batch = _batch(trainer)
    assert trainer.updater.update(batch, 0)["skipped"] == 3.0
    assert trainer.updater.skipped == 1
    with pytest.raises(CorlError, match=r"step 2 has norm .*, and the 1 steps before it"):
        trainer.updater.update(batch, 1)


class Looks(Reward):
    """Pays for what a convolution sees in drawings, for the vowels of answers; long work for torch and for Python."""

    beside = False

    def __init__(self, task: Task) -> None:
        super().__init__(Options())
        self.task = task  # type: ignore[misc]
        self.needs_policy = not self.beside

    def score(self, rollout: Rollout, policy: UnifiedPolicy | None) -> Scores:
        if self.task == "mm2t":
            return Scores(values=torch.tensor([float(sum(map(str(o).count, "aeiou"))) for o in rollout.outputs]))
        pixels = torch.stack([torch.tensor(list(o.tobytes())).float() for o in rollout.outputs])  # type: ignore[union-attr]
        kernels = torch.sin(torch.arange(64 * 27.0)).view(64, 3, 3, 3)
        seen = torch.conv2d(pixels.view(len(rollout), 32, 32, 3).permute(0, 3, 1, 2) / 255, kernels)
        return Scores(values=seen.relu().mean((1, 2, 3)), texts={"seen": [f"{v:.9f}" for v in seen.std((1, 2, 3))]})


class LooksBeside(Looks):
    beside = True


def test_rewards_beside_the_sampler_change_no_bit(policy: JanusPolicy, tmp_path: Path) -> None:
    recipe = make_recipe(algo={"credit": "per_task", "dynamic_sampling": 1}, train={"max_steps": 3})
    found = []
    for reward in (Looks, LooksBeside):
        (folder := tmp_path / reward.__name__).mkdir()
        trainer = make_trainer(policy, folder, recipe, reward)
        trainer.fit()
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        kept = [
            {key: value for key, value in line.items() if not re.match("time/|memory/|seconds|tokens_per_second", key)}
            for line in lines
        ]
        rows = (folder / "rollouts" / "step-000003" / "rows.jsonl").read_text()
        found.append((kept, rows, trainer.strategy.actor.trainable()))
    (metrics, rows, weights), (metrics_beside, rows_beside, weights_beside) = found
    assert metrics == metrics_beside
    assert rows == rows_beside
    assert all(torch.equal(one, other) for one, other in zip(weights, weights_beside, strict=True))


class Meets(Low):
    """That of drawings is not done before that of answers has begun: each waits for the other."""

    barrier = threading.Barrier(2)
    needs_policy = False

    def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
        self.barrier.wait(60)
        return super().score(rollout, policy)


@pytest.mark.parametrize("tasks", [["t2i", "mm2t"], ["mm2t", "t2i"]])
def test_drawings_are_scored_while_answers_are_written(policy: JanusPolicy, tmp_path: Path, tasks: list[Task]) -> None:
    recipe = make_recipe(algo={"credit": "per_task"}, train={"tasks": tasks})
    trainer = make_trainer(policy, tmp_path, recipe, Meets)
    batch, _ = trainer.reinforce(0, tasks, since=2)
    assert list(batch) == tasks, "in the recipe's order"
    assert trainer.seconds["reward"] > 0


def test_a_failure_of_the_sampler_leaves_no_thread_behind(policy: JanusPolicy, tmp_path: Path) -> None:
    class Endless(Low):
        needs_policy = False

        def score(self, rollout: Rollout, policy: UnifiedPolicy) -> Scores:
            while True:
                super().score(rollout, policy)

    recipe = make_recipe(sampling={"mm2t": {"max_new_tokens": 100_000}})  # more than the model's context has room for
    trainer = make_trainer(policy, tmp_path, recipe, Endless)
    with pytest.raises(CorlError, match="exceed the model's context"):
        trainer.reinforce(0, ["t2i", "mm2t"], since=2)
    assert "pending" not in [thread.name for thread in threading.enumerate()]
