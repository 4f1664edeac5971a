"""What users write is words: no text of theirs is read as a special token."""

from dataclasses import replace

import pytest
import torch

from corl_cli.core.types import Sampling, Triplet
from corl_cli.models.janus import JanusPolicy

SPECIAL = ["<image_placeholder>", "<|end_of_sentence|>", "<begin_of_image>", "<end_of_image>", "<|Assistant|>"]
MARK = pytest.mark.parametrize("mark", SPECIAL)


def marks(policy: JanusPolicy, row: torch.Tensor) -> list[int]:
    """The special tokens of a row, without padding and the one for words that are not known."""
    tokenizer = policy.tokenizer
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return [token for token in row.tolist() if token in special - {tokenizer.pad_token_id, tokenizer.unk_token_id}]


@MARK
def test_a_special_tokens_text_adds_no_special_token(policy: JanusPolicy, mark: str) -> None:
    plain, hostile = "a red circle", f"a red {mark}{mark} circle {mark}"
    for encode in (policy.prompts.draw, policy.prompts.ask, policy.prompts.caption, policy.prompts.complete):
        ids = encode([plain, hostile])[0]
        assert marks(policy, ids[0]) == marks(policy, ids[1])


@MARK
def test_the_span_of_such_a_prompt_is_the_whole_prompt(policy: JanusPolicy, mark: str) -> None:
    ids, _, spans = policy.prompts.caption([f"a red {mark}", mark])
    written = policy.words(ids[0][spans[0]])
    assert written[:2] == ["a", "red"]
    assert len(written) > 2
    assert int(spans[1].sum()) == len(written) - 2


def test_ordinary_text_is_tokenised_as_it_is(policy: JanusPolicy) -> None:
    text = "a < b, <think> red </think> <answer> A </answer> | user"
    ids, _ = policy.prompts.complete([text])
    words = policy.tokenizer(text, add_special_tokens=False).input_ids
    assert ids[0].tolist() == [*words, policy.tokenizer.eos_token_id]


@pytest.mark.parametrize("task", ["t2i", "mm2t"])
def test_such_prompts_are_sampled_scored_and_embedded(policy: JanusPolicy, triplets: list[Triplet], task) -> None:
    hostile = " ".join(SPECIAL)
    rows = [replace(triplet, prompt=f"{hostile} red", question=f"{hostile}?") for triplet in triplets[:2]]
    sampling = Sampling(group_size=2, temperature=0.8, cfg_weight=3.0, max_new_tokens=6)
    rollout = policy.sample(task, [*rows, triplets[2]], sampling, key="k")
    assert torch.allclose(policy(rollout).logps, rollout.logps, atol=1e-4)
    embedded = policy.embed([row.image for row in rows], [row.prompt for row in rows])
    assert embedded.images.shape[:2] == (2, policy.num_image_tokens)
