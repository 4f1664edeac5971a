"""The Janus policy on a random tiny model of the real class."""

import copy
from dataclasses import replace

import pytest
import torch
from PIL import Image

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Optim
from corl_cli.core.types import Sampling, Task, Triplet
from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines.build import build_optimizer
from corl_cli.trainer.preflight import check_identity

SAMPLINGS = {
    "t2i": Sampling(group_size=3, temperature=0.8, cfg_weight=3.0, top_p=0.9),
    "mm2t": Sampling(group_size=3, temperature=0.8, top_p=0.9, max_new_tokens=14),
}
BOTH = pytest.mark.parametrize("task", ["t2i", "mm2t"])


@BOTH
def test_scored_log_probs_equal_the_sampled_ones(policy: JanusPolicy, triplets: list[Triplet], task: Task) -> None:
    rollout = policy.sample(task, triplets, SAMPLINGS[task], key="k")
    assert not rollout.prompt_mask.bool().all(), "the batch must hold padded prompts"
    assert torch.allclose(policy(rollout).logps, rollout.logps, atol=1e-4)


@BOTH
def test_a_row_is_the_same_alone_and_in_a_batch(policy: JanusPolicy, triplets: list[Triplet], task: Task) -> None:
    rollout = policy.sample(task, triplets, SAMPLINGS[task], key="k")
    for index, triplet in enumerate(triplets):
        alone = policy.sample(task, [triplet], SAMPLINGS[task], key="k")
        length = alone.completion_ids.shape[1]
        rows = slice(3 * index, 3 * index + 3)
        assert torch.equal(alone.completion_ids, rollout.completion_ids[rows, :length])
        assert torch.equal(alone.completion_mask, rollout.completion_mask[rows, :length])
        assert torch.allclose(policy(alone).logps, policy(rollout).logps[rows, :length], atol=1e-4)


@BOTH
def test_prompts_that_do_not_fit_at_once_are_sampled_in_turns(
    policy: JanusPolicy, triplets: list[Triplet], task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = policy.sample(task, triplets, SAMPLINGS[task], key="k")
    monkeypatch.setattr(policy, "cache_bytes", 1_000_000)  # a prompt or two
    turns = policy.sample(task, triplets, SAMPLINGS[task], key="k")
    assert torch.equal(turns.completion_ids, whole.completion_ids)
    assert torch.equal(turns.completion_mask, whole.completion_mask)
    assert torch.allclose(turns.logps, whole.logps, atol=1e-4)


@BOTH
def test_bfloat16_agrees_within_the_preflights_bounds(
    policy: JanusPolicy, triplets: list[Triplet], task: Task, tmp_path
) -> None:
    policy.save(tmp_path)
    half = JanusPolicy.load(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.trainable()} == {torch.float32}
    assert half.model.model.vqmodel.decoder.conv_in.weight.dtype == torch.bfloat16
    many = replace(SAMPLINGS[task], group_size=16, cfg_weight=5.0)
    found = check_identity(lambda own: half(own).logps.detach(), half.sample(task, triplets, many, key="k"), "bfloat16")
    assert 0 < found.mean < 0.05


@BOTH
def test_another_key_gives_other_samples(policy: JanusPolicy, triplets: list[Triplet], task: Task) -> None:
    first = policy.sample(task, triplets, SAMPLINGS[task], key="k").completion_ids
    other = policy.sample(task, triplets, SAMPLINGS[task], key="l").completion_ids
    assert first.shape != other.shape or not torch.equal(first, other)


@BOTH
def test_a_token_moves_only_the_rows_after_it(policy: JanusPolicy, triplets: list[Triplet], task: Task) -> None:
    """The causality probe: with an off-by-one slice, row j would move with token j's own embedding."""
    given = ["a red circle left of a blue square"] * 6 if task == "mm2t" else [t.image for t in triplets]
    rollout = policy.encode(task, triplets, given)
    changed = rollout.completion_ids.clone()
    changed[:, 3] = (changed[:, 3] + 1) % 50
    before, after = policy(rollout).logps, policy(replace(rollout, completion_ids=changed)).logps
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.isclose(before[:, 4:8], after[:, 4:8]).all(1).any()
    # row 3 itself is another token of the same distribution: all its alternatives sum to one
    width = policy.model.config.vq_config.num_embeddings if task == "t2i" else len(policy.tokenizer)
    total = torch.zeros(len(triplets))
    for token in range(width):
        changed[:, 3] = token
        total += policy(replace(rollout, completion_ids=changed)).logps[:, 3].exp()
    assert torch.allclose(total, torch.ones(len(triplets)), atol=1e-4)


@BOTH
def test_greedy_sampling_equals_transformers_generate(policy: JanusPolicy, triplets: list[Triplet], task: Task) -> None:
    greedy = Sampling(temperature=0.0, cfg_weight=3.0, max_new_tokens=10)
    rollout = policy.sample(task, triplets, greedy, key="k")
    kwargs = {"generation_mode": "image", "guidance_scale": 3.0} if task == "t2i" else {"generation_mode": "text"}
    generated = policy.model.generate(
        rollout.prompt_ids,
        attention_mask=rollout.prompt_mask,
        pixel_values=rollout.pixel_values,
        do_sample=False,
        max_new_tokens=10,
        **kwargs,
    )
    if task == "mm2t":
        generated = generated[:, rollout.prompt_ids.shape[1] :]
    width = rollout.completion_ids.shape[1]
    written = rollout.completion_mask
    assert torch.equal(generated[:, :width].where(written, 0), rollout.completion_ids.where(written, 0))


def test_text_ends_with_its_first_end_of_sequence(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    many = Sampling(group_size=16, temperature=2.0, max_new_tokens=40)
    rollout = policy.sample("mm2t", triplets, many, key="k")
    eos = policy.tokenizer.eos_token_id
    ended = (rollout.completion_ids == eos) & rollout.completion_mask
    assert 0 < int(ended.any(1).sum()) < len(rollout), "some rows should end and some not"
    for ids, mask in zip(rollout.completion_ids, rollout.completion_mask, strict=True):
        kept = ids[mask].tolist()
        assert eos not in kept[:-1]
        assert kept[-1] == eos or len(kept) == 40


def test_only_answers_without_an_end_are_truncated(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    eos, limit = policy.tokenizer.eos_token_id, 12
    hot = Sampling(group_size=16, temperature=2.0, max_new_tokens=limit)
    rollout = policy.sample("mm2t", triplets, hot, key="k")
    ended = ((rollout.completion_ids == eos) & rollout.completion_mask).any(1)
    assert torch.equal(rollout.truncated, ~ended)
    assert 0 < int(ended.sum()) < len(rollout)
    lengths = rollout.completion_mask.sum(1)
    last = int(lengths[ended].max())  # the same noise again, with a limit that one answer just reaches
    again = policy.sample("mm2t", triplets, replace(hot, max_new_tokens=last), key="k")
    just = ended & (lengths == last)
    assert just.any()
    assert bool((again.completion_ids[just, -1] == eos).all())
    assert not again.truncated[just].any()
    assert again.truncated[~ended].all()
    assert not policy.sample("t2i", triplets, Sampling(group_size=2), key="k").truncated.any()


def test_a_copy_samples_from_its_own_weights(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    before = policy.sample("t2i", triplets, Sampling(), key="k")  # the sampler holds weights now
    other = copy.deepcopy(policy)
    with torch.no_grad():
        other.model.model.language_model.layers[0].mlp.down_proj.weight.mul_(2)
    moved = other.sample("t2i", triplets, Sampling(), key="k")
    assert torch.allclose(other(moved).logps, moved.logps, atol=1e-4)
    assert not torch.equal(moved.logps, before.logps)
    assert torch.equal(policy.sample("t2i", triplets, Sampling(), key="k").logps, before.logps)


@BOTH
def test_selecting_groups_keeps_scores(policy: JanusPolicy, triplets: list[Triplet], task: Task) -> None:
    rollout = policy.sample(task, triplets, SAMPLINGS[task], key="k")
    part = rollout.select([4, 1])
    expected = torch.cat([policy(rollout).logps[12:15], policy(rollout).logps[3:6]])
    assert torch.allclose(policy(part).logps, expected, atol=1e-4)
    assert [t.id for t in part.triplets[::3]] == [triplets[4].id, triplets[1].id]


def test_the_sampler_follows_the_weights(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    before = policy.sample("t2i", triplets, Sampling(), key="k")
    weight = policy.model.model.language_model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        weight.add_(torch.randn_like(weight))
    try:
        after = policy.sample("t2i", triplets, Sampling(), key="k")
        assert torch.allclose(policy(after).logps, after.logps, atol=1e-4)
        assert not torch.allclose(before.logps, after.logps, atol=1e-2)
    finally:
        policy.load_state_dict(policy.start)


def test_the_sampler_follows_the_fused_optimizer(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    """That of a GPU, which does not tell tensors that they have changed."""
    optimizer = build_optimizer(policy, Optim(lr=0.1))
    for group in optimizer.param_groups:
        group |= {"fused": True, "foreach": False}
    before = policy.sample("t2i", triplets, Sampling(), key="k")
    try:
        (-policy(before).logps.mean()).backward()
        optimizer.step()
        after = policy.sample("t2i", triplets, Sampling(), key="k")
        assert torch.allclose(policy(after).logps, after.logps, atol=1e-4)
        assert not torch.allclose(before.logps, after.logps, atol=1e-2)
    finally:
        optimizer.zero_grad()
        policy.load_state_dict(policy.start)


def test_encoding_images_takes_the_nearest_normalised_code(policy: JanusPolicy) -> None:
    """Encoding uses the normalised codes of Janus' original VQ model, whatever their length."""
    vq = policy.model.model.vqmodel
    with torch.no_grad():
        latents = torch.nn.functional.normalize(vq.quantize.embedding.weight, dim=-1)
    picture = Image.new("RGB", (32, 32), "red")
    tokens = policy.encode_images([picture])
    with torch.no_grad():
        own = torch.nn.functional.normalize(vq.quant_conv(vq.encoder(policy._pixels([picture]))), dim=1)
    assert torch.equal((own.flatten(2).transpose(1, 2) @ latents.T).argmax(-1), tokens)


def test_embedding_spans_are_the_prompt_and_nothing_else(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    images, hidden, spans, _ = policy.embed([t.image for t in triplets], [t.prompt for t in triplets])
    assert images.shape == (6, 16, 128)
    for triplet, span in zip(triplets, spans, strict=True):
        assert int(span.sum()) == len(policy.tokenizer(triplet.prompt, add_special_tokens=False).input_ids)
    alone = policy.embed([triplets[0].image], [triplets[0].prompt])
    assert torch.allclose(alone[0][0], images[0], atol=1e-4)
    assert torch.allclose(alone[1][0][alone[2][0]], hidden[0][spans[0]], atol=1e-4)


def test_only_the_language_model_learns(policy: JanusPolicy) -> None:
    names = {name for name, parameter in policy.named_parameters() if parameter.requires_grad}
    assert names
    assert all("language_model" in name or "lm_head" in name for name in names)
    model = policy.model
    learn = sum(parameter.numel() for parameter in policy.trainable())
    assert learn == sum(p.numel() for part in (model.model.language_model, model.lm_head) for p in part.parameters())


def test_sampling_leaves_training_mode_as_it_was(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    policy.train()
    policy.sample("t2i", triplets[:1], Sampling(), key="k")
    assert policy.training
    policy.eval()


def test_save_and_load_keep_every_score(policy: JanusPolicy, triplets: list[Triplet], tmp_path) -> None:
    policy.save(tmp_path / "model")
    again = JanusPolicy.load(tmp_path / "model")
    rollout = policy.sample("mm2t", triplets, SAMPLINGS["mm2t"], key="k")
    assert torch.equal(again(rollout).logps, policy(rollout).logps)
    count = JanusPolicy.count(tmp_path / "model")
    assert count.learn == sum(p.numel() for p in policy.trainable())
    assert count.learn + count.frozen == sum(p.numel() for p in policy.parameters())
    inner = policy.model.model
    copied = (inner.language_model.layers, policy.model.lm_head, inner.generation_head)
    assert count.copied == sum(p.numel() for part in copied for p in part.parameters())


def test_a_missing_or_damaged_checkpoint_is_one_clear_error(policy: JanusPolicy, tmp_path) -> None:
    for missing in (str(tmp_path / "nowhere"), "nowhere/at-all"):
        with pytest.raises(CorlError, match="No Janus checkpoint could be read") as raised:
            JanusPolicy.load(missing)
        assert raised.value.message.endswith("no such folder here, and no such model could be had from the hub.")
    policy.save(tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CorlError, match="No Janus checkpoint could be read"):
        JanusPolicy.load(tmp_path / "model")


def test_a_checkpoint_that_lacks_tensors_is_refused(policy: JanusPolicy, tmp_path) -> None:
    state = {name: value for name, value in policy.model.state_dict().items() if "generation_head" not in name}
    policy.save(tmp_path / "model")
    policy.model.save_pretrained(tmp_path / "model", state_dict=state)
    with pytest.raises(CorlError, match="not a whole Janus checkpoint"):
        JanusPolicy.load(tmp_path / "model")


def test_too_long_a_completion_is_refused(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    with pytest.raises(CorlError, match="exceed the model's context"):
        policy.sample("mm2t", triplets, Sampling(max_new_tokens=4096), key="k")


def test_a_task_alone_learns_only_what_it_touches(policy: JanusPolicy, triplets: list[Triplet]) -> None:
    for task in ("t2i", "mm2t"):
        policy.learn([task])  # type: ignore[list-item]
        policy.zero_grad()
        policy(policy.sample(task, triplets, SAMPLINGS[task], key="k")).logps.sum().backward()  # type: ignore[arg-type]
        assert all(parameter.grad is not None for parameter in policy.trainable())
    policy.learn(["t2i", "mm2t"])
    policy.zero_grad()
