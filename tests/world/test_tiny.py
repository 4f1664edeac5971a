import pytest

from corl_cli.world.items import world_item
from corl_cli.world.tiny import ASSISTANT, BOI, BOS, EOI, IMAGE, NUM_IMAGE_TOKENS, USER, build_processor


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def test_the_words_of_the_world_come_back(processor):
    tokenizer = processor.tokenizer
    for index in range(300):
        item = world_item("train", 4, index)
        for text in (item.triplet.prompt, item.triplet.question, item.solution, item.captioning.answer):
            ids = tokenizer(text, add_special_tokens=False).input_ids
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_a_saved_processor_is_the_same(processor, tmp_path):
    from transformers import JanusProcessor

    processor.save_pretrained(tmp_path)
    loaded = JanusProcessor.from_pretrained(tmp_path)
    text = world_item("train", 0, 0).solution
    assert loaded.tokenizer(text).input_ids == processor.tokenizer(text).input_ids
    assert not loaded.use_default_system_prompt
    assert loaded.chat_template == processor.chat_template


def test_a_question_is_rendered_as_janus_does_with_one_bos(processor):
    item = world_item("train", 0, 1)
    content = [{"type": "image"}, {"type": "text", "text": "where is the red circle?"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], images=[item.triplet.image], return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    words = ["where", "is", "the", "red", "circle", "?"]
    assert tokens == [BOS, USER, BOI, *[IMAGE] * NUM_IMAGE_TOKENS, EOI, *words, ASSISTANT]
    assert inputs["pixel_values"].shape == (1, 3, 32, 32)
    assert -1 <= inputs["pixel_values"].min() < inputs["pixel_values"].max() <= 1


def test_a_prompt_ends_with_begin_of_image(processor):
    content = [{"type": "text", "text": "two red crosses"}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = processor(text=[text], generation_mode="image", return_tensors="pt")
    tokens = processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    assert tokens == [BOS, USER, "two", "red", "crosses", ASSISTANT, BOI]
