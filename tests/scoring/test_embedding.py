"""Embedding similarity: its matching on given hidden states, and texts through tiny encoders of real classes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModel, T5Config, T5ForConditionalGeneration

from corl_cli.scoring import embedding
from corl_cli.scoring.embedding import EmbeddingSimilarity, f_score, greedy_match

PROMPTS = ["a red circle and a blue square", "two green triangles", "a cross", "how many objects are there ?"]
CAPTIONS = ["a red circle", "two green triangles", "a yellow square at the left of a cross , and a circle", "blue"]


def loaded(folder):
    similarity = EmbeddingSimilarity(str(folder))
    similarity.load(torch.device("cpu"))
    return similarity


@pytest.fixture(scope="module")
def similarity(tiny_text_encoder):
    return loaded(tiny_text_encoder)


def test_each_token_takes_its_best_partner():
    prompt = torch.tensor([[2.0, 0.0], [0.0, 5.0]])
    caption = torch.tensor([[3.0, 4.0]])
    recall, precision = greedy_match(prompt, caption)
    assert recall.tolist() == pytest.approx([0.6, 0.8])  # cosines of (3, 4) with the two axes
    assert precision.tolist() == pytest.approx([0.8])
    assert f_score(0.7, 0.8) == pytest.approx(2 * 0.56 / 1.5)


def test_opposite_tokens_agree_on_nothing():
    recall, precision = greedy_match(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
    assert recall.tolist() == precision.tolist() == [0]
    assert f_score(0, 0) == 0


@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 1000))
def test_recall_of_one_is_precision_of_the_other(prompt_length, caption_length, seed):
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randn(prompt_length, 4, generator=generator)
    caption = torch.randn(caption_length, 4, generator=generator)
    recall, precision = greedy_match(prompt, caption)
    swapped = greedy_match(caption, prompt)
    assert torch.allclose(recall, swapped[1], atol=1e-6)
    assert torch.allclose(precision, swapped[0], atol=1e-6)
    assert min(recall.min(), precision.min()) >= 0
    assert max(recall.max(), precision.max()) <= 1
    order = torch.randperm(caption_length, generator=generator)
    assert torch.allclose(greedy_match(prompt, caption[order])[0], recall, atol=1e-6)
    assert torch.allclose(greedy_match(3 * prompt, caption)[0], recall, atol=1e-6)


def test_the_score_is_that_of_the_last_layers_tokens_between_the_marks(similarity, tiny_text_encoder):
    model = AutoModel.from_pretrained(tiny_text_encoder).eval()
    states = []
    for text in ("a red circle", "two blue squares above a cross"):
        ids = torch.tensor([similarity.tokenizer(text).input_ids])
        with torch.no_grad():
            states.append(model(ids).last_hidden_state[0, 1:-1])
    recall, precision = (float(side.mean()) for side in greedy_match(*states))
    scored = similarity(["a red circle"], ["two blue squares above a cross"])
    assert float(scored.values[0]) == pytest.approx(f_score(recall, precision), abs=1e-5)
    assert float(scored.values[0]) < 0.99
    assert scored.details[0]["recall"] == f"{recall:.3f}"
    assert scored.details[0]["precision"] == f"{precision:.3f}"
    assert scored.details[0]["least met"].count("'") == 2 * 3


def test_a_text_agrees_with_itself(similarity):
    values = similarity(PROMPTS, PROMPTS).values
    assert values.tolist() == pytest.approx([1] * 4, abs=1e-5)
    assert float(values.max()) <= 1


def test_batch_order_and_padding_do_not_matter(similarity, monkeypatch):
    single = [float(similarity([p], [c]).values[0]) for p, c in zip(PROMPTS, CAPTIONS, strict=True)]
    assert len({round(value, 3) for value in single}) == 4
    assert similarity(PROMPTS, CAPTIONS).values.tolist() == pytest.approx(single, abs=1e-5)
    assert similarity(PROMPTS[::-1], CAPTIONS[::-1]).values.tolist() == pytest.approx(single[::-1], abs=1e-5)
    monkeypatch.setattr(embedding, "TEXTS", 3)
    assert similarity(PROMPTS, CAPTIONS).values.tolist() == pytest.approx(single, abs=1e-5)
    monkeypatch.setattr(similarity.tokenizer, "padding_side", "left")
    assert similarity(PROMPTS, CAPTIONS).values.tolist() == pytest.approx(single, abs=1e-5)


def test_each_text_is_encoded_once(similarity, monkeypatch):
    read = []
    encode = similarity._encode
    monkeypatch.setattr(similarity, "_encode", lambda texts: read.extend(texts) or encode(texts))
    similarity(["a cross"] * 4, ["a cross", "a circle", "a circle", "a square"])
    assert read == ["a cross", "a circle", "a square"]


def test_a_caption_without_words_scores_0_and_a_prompt_without_words_has_no_score(similarity):
    scored = similarity(["a cross", " ", ""], ["", "a cross", ""])
    assert scored.values[0] == 0
    assert scored.details[0] == {"missing": "the caption has no words"}
    assert [math.isnan(value) for value in scored.values] == [False, True, True]
    assert scored.details[1] == {"failed": "the prompt has no words"}


def test_long_texts_are_cut_and_it_is_said(similarity, capfd):
    long = "a red circle " * 8  # 24 words and two marks; the encoder reads 24 tokens
    scored = similarity([long, "a cross", long.strip() + " left"], ["a cross", long, long])
    assert [details.get("cut short") for details in scored.details] == ["prompt", "caption", "prompt and caption"]
    assert float(scored.values[2]) == pytest.approx(1, abs=1e-5)  # what differs is not read
    assert capfd.readouterr().err == ""


def test_nothing_to_compare(similarity):
    assert similarity([], []).values.shape == (0,)


def test_the_text_tower_of_clip_is_read(tiny_clip):
    clip = loaded(tiny_clip)
    values = clip(["a cross", "a cross"], ["a cross", "two blue squares"]).values.tolist()
    assert values[0] == pytest.approx(1, abs=1e-5)
    assert values[1] < 0.99


def test_the_encoder_of_an_encoder_decoder_is_read(similarity, tmp_path):
    torch.manual_seed(0)
    sizes = {"d_model": 32, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=len(similarity.tokenizer), decoder_start_token_id=0, **sizes)
    model = T5ForConditionalGeneration(config)
    model.save_pretrained(tmp_path)
    similarity.tokenizer.save_pretrained(tmp_path)
    encoder = loaded(tmp_path)
    values = encoder(PROMPTS, CAPTIONS).values.tolist()
    assert values == pytest.approx([float(encoder([p], [c]).values[0]) for p, c in zip(PROMPTS, CAPTIONS, strict=True)])
    assert values[1] == pytest.approx(1, abs=1e-5)
    assert values[0] < 0.99
