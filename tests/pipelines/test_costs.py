"""What drawing, writing and updating must cost: by hand, and by torch's own count of operations."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import JanusConfig

from corl_cli.models.janus import JanusPolicy
from corl_cli.pipelines import costs
from corl_cli.pipelines.costs import Work
from corl_cli.pipelines.random_weights import JANUS, janus, janus_config


@pytest.fixture(scope="module")
def large() -> JanusConfig:
    return janus_config(JANUS["janus-pro-1b"])


@pytest.fixture(scope="module")
def small() -> JanusPolicy:
    policy = janus(JANUS["small"], torch.device("cpu"), "float32")
    policy.model.set_attn_implementation("eager")
    return policy


def test_the_weights_of_janus_pro_1b(large: JanusConfig) -> None:
    assert costs.layers(large) == 24 * (4 * 2048 * 2048 + 3 * 2048 * 5632)  # 1233 M
    assert costs.head(large, "mm2t") == 102400 * 2048
    assert costs.head(large, "t2i") == 2048 * (2048 + 16384)  # 38 M


def test_grouped_queries_have_fewer_keys_and_values() -> None:
    config = janus_config(JANUS["small"])
    config.text_config.num_key_value_heads = 2
    assert costs.layers(config) == 2 * (64 * 16 * (4 + 2 + 2 + 4) + 3 * 64 * 128)


def test_a_drawing_of_two_tokens_by_hand(large: JanusConfig) -> None:
    """One prompt of 3 tokens, 2 rows, no guidance: a prefill, one step, two heads."""
    layers, head, aligner = costs.layers(large), costs.head(large, "t2i"), 2048 * (8 + 2048)
    pair, column = 4 * 24 * 2048, 2 * 24 * 2048
    work = costs.drawing(large, 1, 2, 3, 2, 1, 2)
    assert work.flops == 2 * layers * (3 + 2) + pair * (6 + 2 * 4) + 2 * head * 4 + 2 * aligner * 2
    assert work.nbytes == 2 * (2 * layers + 2 * head + column * (3 + 2 + 3 + 2))


def test_guidance_doubles_rows_but_not_the_weights_that_are_read(large: JanusConfig) -> None:
    plain, guided = (costs.drawing(large, 1, 8, 40, 576, halves, 2) for halves in (1, 2))
    assert guided.flops == 2 * plain.flops
    assert plain.nbytes < guided.nbytes < 1.2 * plain.nbytes


def test_a_group_shares_its_prompt_and_its_image(large: JanusConfig) -> None:
    one, eight = (costs.writing(large, 1, group, 640, 1, 2) for group in (1, 8))
    assert eight.flops - one.flops == 7 * 2 * costs.head(large, "mm2t")
    assert eight.nbytes == one.nbytes


def test_learning_is_three_forward_passes_and_checkpointing_a_fourth_of_all_layers_but_one(large: JanusConfig) -> None:
    rows = (1, 8, 640, 512, 2)
    seen, head = costs.seeing(large, 1, 2).flops, 2 * costs.head(large, "mm2t") * 8 * 512
    forward = costs.scoring(large, "mm2t", *rows).flops - seen
    plain = costs.updating(large, "mm2t", *rows, False).flops - seen
    assert plain == pytest.approx(3 * forward, rel=1e-12)
    again = costs.updating(large, "mm2t", *rows, True).flops - seen
    assert again == pytest.approx(3 * forward + 23 / 24 * (forward - head), rel=1e-12)
    assert costs.updating(large, "mm2t", *rows, False, True).flops < plain


def test_the_floor_of_a_step_on_an_h200(large: JanusConfig) -> None:
    """At 4.3 TB/s and 780 TFLOP/s; by hand about 0.6 s for reading the layers 1086 times, and their keys and values."""
    least = sum(
        work.seconds(4.3e12, 780e12)
        for work in (
            costs.drawing(large, 1, 8, 40, 576, 2, 2),
            costs.writing(large, 1, 8, 640, 512, 2),
            costs.updating(large, "t2i", 1, 8, 40, 576, 2, False),
            costs.updating(large, "mm2t", 1, 8, 640, 512, 2, False),
        )
    )
    assert 0.6 < least < 1.2


def test_work_adds_up_and_takes_the_time_of_its_bound() -> None:
    both = Work(6, 1) + Work(2, 3)
    assert both == Work(8, 4)
    assert (both * 2).seconds(bandwidth=8, arithmetic=4) == 4
    assert both.seconds(bandwidth=1, arithmetic=8) == 4


@pytest.mark.parametrize("backward", [False, True])
def test_torch_counts_the_same_but_for_what_causal_attention_does_not_see(small: JanusPolicy, backward: bool) -> None:
    """transformers' plain attention multiplies queries with later keys as well; an image's pixels take no gradient."""
    prompts, read, written = 2, 10, 6
    model, config = small.model, small.model.config
    width = config.text_config.hidden_size
    hidden = torch.randn(prompts, read + written - 1, width, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        states = model.model.language_model(inputs_embeds=hidden, use_cache=False).last_hidden_state
        logits = model.lm_head(states[:, read - 1 :])
        model.model.get_image_features(torch.randn(prompts, 3, 16, 16))
        if backward:
            logits.sum().backward()
    length = read + written - 1
    unseen = 4 * config.text_config.num_hidden_layers * width * prompts * length * (length - 1) // 2
    rows = (prompts, 1, read, written, 4)
    work = costs.updating(config, "mm2t", *rows, False) if backward else costs.scoring(config, "mm2t", *rows)
    assert counter.get_total_flops() == work.flops + unseen * (3 if backward else 1)


def test_torch_counts_the_same_arithmetic_of_the_image_head(small: JanusPolicy) -> None:
    model, tokens = small.model, torch.zeros(3, 4, dtype=torch.long)
    with FlopCounterMode(display=False) as counter:
        model.model.generation_head(model.prepare_embeddings_for_image_generation(tokens))
    weights = costs.head(model.config, "t2i") + costs.drawing_aligner(model.config)
    assert counter.get_total_flops() == 2 * weights * tokens.numel()
