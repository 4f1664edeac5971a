"""The two formats against a Janus that computes as DeepSeek's does."""

import json
import sys

import original_janus
import pytest
import torch
from safetensors.torch import load_file, save_file

from corl_cli.core.errors import UsageError
from corl_cli.models import original, original_config, original_files, shards
from corl_cli.models.prompts import ChatPrompts, Frame
from corl_cli.pipelines.memory import Memory

ROLES = ("<|User|>", "<|Assistant|>")


@pytest.fixture(scope="module")
def theirs():
    torch.manual_seed(0)
    return original_janus.Original().eval()


@pytest.fixture(scope="module")
def folder(theirs, tmp_path_factory):
    """Its checkpoint."""
    folder = original_janus.save_files(tmp_path_factory.mktemp("original") / "janus")
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def read(folder):
    """Configuration and processor as transformers has them."""
    processor = original_files.processor_from(folder, ROLES)
    return original_files.with_tokens(original_config.config_from(original_janus.config()), processor), processor


def whole(weights):
    return {name: weights.rows(name, slice(0, spec.shape[0])) for name, spec in weights.specs.items()}


@pytest.fixture(scope="module")
def ours(folder, read):
    from transformers import JanusForConditionalGeneration

    model = JanusForConditionalGeneration(read[0])
    model.load_state_dict(whole(original.as_transformers(shards.Saved(folder), read[0])), strict=True)
    return model.eval()


@torch.no_grad()
def test_text_images_and_drawing_are_scored_as_by_the_original(theirs, ours, read):
    prompts = ChatPrompts(read[1], 4)
    ids, mask = prompts.ask(["what colour is the circle ?"])
    pixels = torch.rand(1, 3, 16, 16) * 2 - 1
    expected = theirs.understand(ids, pixels, read[0].image_token_id)
    torch.testing.assert_close(ours(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits, expected)
    assert (expected - theirs.understand(ids, -pixels, read[0].image_token_id)).abs().max() > 0.1, "the image matters"

    words, _ = prompts.draw(["a red circle"])
    torch.testing.assert_close(ours(input_ids=words).logits, theirs.language_model(words).logits)

    tokens = torch.randint(0, original_janus.CODES, (1, 4))
    janus = ours.model
    drawn = janus.generation_aligner(janus.generation_embeddings(tokens[:, :-1]))
    states = torch.cat([janus.language_model.get_input_embeddings()(words), drawn], 1)
    hidden = janus.language_model(inputs_embeds=states).last_hidden_state[:, words.shape[1] - 1 :]
    torch.testing.assert_close(janus.generation_head(hidden), theirs.draw(words, tokens))

    drawer = theirs.gen_vision_model
    torch.testing.assert_close(ours.decode_image_tokens(tokens).permute(0, 3, 1, 2), drawer.decode(tokens))
    vq = janus.vqmodel
    torch.testing.assert_close(vq.quant_conv(vq.encoder(pixels)), drawer.encode(pixels))


@pytest.mark.parametrize("swap", [(0, 1), (1, 2), (0, 2)])
@torch.no_grad()
def test_the_order_of_queries_keys_and_values_shows_in_the_logits(swap, theirs, ours, read):
    ids, mask = ChatPrompts(read[1], 4).ask(["what colour is the circle ?"])
    pixels = torch.rand(1, 3, 16, 16)
    expected = theirs.understand(ids, pixels, read[0].image_token_id)
    attention = ours.model.vision_model.encoder.layers[0].self_attn
    one, other = (getattr(attention, ("q_proj", "k_proj", "v_proj")[third]) for third in swap)
    one.weight.data, other.weight.data = other.weight.data, one.weight.data
    swapped = ours(input_ids=ids, attention_mask=mask, pixel_values=pixels).logits
    one.weight.data, other.weight.data = other.weight.data, one.weight.data
    assert (swapped - expected).abs().max() > 1e-3


def test_there_and_back_by_pieces_is_bit_exact(theirs, ours, read, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "PIECE", 100)  # several to a tensor, and across the thirds of a fused one
    save_file(ours.state_dict(), tmp_path / shards.WEIGHTS, {"format": "pt"})
    back = original.as_original(shards.Saved(tmp_path), read[0])
    state = theirs.state_dict()
    assert back.specs.keys() == state.keys()
    for name, value in state.items():
        found = torch.cat([back.rows(name, rows) for rows in back.specs[name].pieces()])
        assert torch.equal(found, torch.zeros_like(value) if original.dropped(name) else value), name
    theirs.load_state_dict(whole(back) | {name: state[name] for name in state if original.dropped(name)}, strict=True)


def test_names_go_both_ways_and_leave_none_out(read):
    wanted, found = original.shapes(read[0]), set()
    for name in wanted:
        theirs, third = original.to_original(name)
        assert original.to_transformers(theirs)[third or 0] == name
        found.add(theirs)
    assert found == {name for name in original.original_shapes(read[0]) if not original.dropped(name)}
    with pytest.raises(KeyError):
        original.to_transformers("vision_gen_enc_model.conv.weight")


def test_misfits_name_each_tensor(theirs, read):
    state = theirs.state_dict()
    del state["gen_embed.weight"], state[original.COUNTER]
    state["aligner.layers.0.bias"] = torch.zeros(3)
    state["vision_gen_dec_model.bias"] = torch.zeros(1)

    class Held:
        specs = {name: shards.Spec(tuple(value.shape), value.dtype) for name, value in state.items()}  # noqa: RUF012

    assert original.misfits(Held(), original.original_shapes(read[0])) == [
        "it lacks gen_embed.weight",
        "it has vision_gen_dec_model.bias, which no Janus has",
        "aligner.layers.0.bias is [3], not [48]",
    ]


def test_the_configuration_goes_both_ways(read):
    said = original_janus.config()
    back = original_config.config_to(read[0])
    for section in original_config.CLASSES:
        assert back[section] == said[section]
    kept = {key: back["language_config"][key] for key in original_janus.LANGUAGE}
    assert kept == original_janus.LANGUAGE


def test_janus_pro_7b_leaves_out_what_is_llamas_default():
    """As in the file of deepseek-ai/Janus-Pro-7B: the sizes of a 7B are transformers' defaults, and left out."""
    said = original_janus.config()
    said["language_config"] = {
        "max_position_embeddings": 16384,
        "model_type": "llama",
        "num_hidden_layers": 30,
        "torch_dtype": "bfloat16",
        "vocab_size": 102400,
    }
    said["vision_config"]["params"] = {
        "image_size": 384,
        "model_name": "siglip_large_patch16_384",
        "select_feature": "same",
        "select_layer": -1,
    }
    said["gen_vision_config"] = {"cls": "VQ-16", "params": {"image_token_size": 16384, "n_embed": 8}}
    config = original_config.config_from(said)
    shapes = original.original_shapes(config)
    assert shapes["language_model.model.layers.29.mlp.down_proj.weight"] == (4096, 11008)
    assert shapes["vision_model.vision_tower.blocks.23.attn.qkv.weight"] == (3072, 1024)
    assert shapes["gen_vision_model.decoder.conv_blocks.0.res.2.conv2.weight"] == (512, 512, 3, 3)
    assert config.vision_config.num_image_tokens == 576
    assert not config.tie_word_embeddings
    assert original_config.at_home(original_config.config_to(config))


@pytest.mark.parametrize(
    ("section", "key", "value", "words"),
    [
        ("vision_config", "select_layer", -2, "select_layer is -2, not -1"),
        ("vision_config", "model_name", "siglip_so400m_patch14_384", "model_name is siglip_so400m_patch14_384"),
        ("vision_config", "select_feature", "patch", "select_feature is patch, not same"),
        ("vision_config", "image_size", 20, "images of 20 pixels are not so many patches of 8"),
        ("vision_config", "pixel_mean", [0.5] * 3, "pixel_mean"),
        ("aligner_config", "projector_type", "linear", "projector_type is linear, not mlp_gelu"),
        ("gen_aligner_config", "depth", 3, "depth is 3, not 2"),
    ],
)
def test_what_would_compute_otherwise_is_refused(section, key, value, words):
    said = original_janus.config()
    said[section]["params"][key] = value
    with pytest.raises(UsageError, match="is of another model") as caught:
        original_config.config_from(said)
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "qwen2"}, "model_type is qwen2, not llama"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is true, not false"),
        ({"sliding_window": 8}, "sliding_window is 8, which no Llama has"),
        ({"rope_parameters": {"rope_theta": 7.0}}, "has two rope_theta, 5000.0 and 7.0"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "(rope_type linear, factor 2.0)"),
    ],
)
def test_a_language_model_that_would_compute_otherwise_is_refused(changes, words):
    said = original_janus.config()
    said["language_config"] |= changes
    with pytest.raises(UsageError) as caught:
        original_config.config_from(said)
    assert words in caught.value.message


def test_rotary_bases_are_read_as_either_transformers_writes_them():
    said = original_janus.config()
    theta = said["language_config"].pop("rope_theta")
    old = {"rope_theta": theta, "rope_scaling": None, "top_k": 50, "is_decoder": False, "torch_dtype": "bfloat16"}
    new = {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}, "dtype": "bfloat16"}
    for rotary in (old, new):
        config = original_config.config_from(said | {"language_config": said["language_config"] | rotary})
        assert config.text_config.rope_parameters["rope_theta"] == theta == 5000
        assert original_config.config_to(config)["language_config"]["rope_theta"] == theta


def test_the_tokenizer_adds_one_beginning_and_knows_its_images(folder, read, tmp_path):
    config, processor = read
    tokenizer = processor.tokenizer
    assert tokenizer("a red circle").input_ids.count(tokenizer.bos_token_id) == 1
    assert tokenizer.pad_token == "<|pad|>"
    assert config.image_token_id == tokenizer.convert_tokens_to_ids("<image_placeholder>")
    assert processor.image_processor.image_mean == (0.5, 0.5, 0.5)
    original_files.save_original(processor, tmp_path)
    again = original_files.processor_from(tmp_path, ROLES)
    assert again.tokenizer("a red circle").input_ids == tokenizer("a red circle").input_ids
    assert again.chat_template == processor.chat_template
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] | length }}")
    assert original_files.processor_from(tmp_path, ROLES).chat_template == processor.chat_template, "it reads no images"


def test_the_chat_format_is_janus_own(read):
    """Prompts as DeepSeek's README writes them, with an empty system prompt."""
    processor = read[1]
    ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": " what is it ? "}]}]
    asked = "<|User|>: <image_placeholder>\nwhat is it ?"
    assert processor.apply_chat_template(ask, add_generation_prompt=True) == f"{asked}\n\n<|Assistant|>:"
    assert processor.apply_chat_template(ask) == asked
    answered = [*ask, {"role": "assistant", "content": [{"type": "text", "text": "a circle"}]}]
    end = "\n\n<|Assistant|>: a circle<|end_of_sentence|>"
    assert processor.apply_chat_template(answered) == asked + end


def test_a_token_that_is_lacking_is_named(folder, tmp_path):
    for file in folder.glob("*.json"):
        (tmp_path / file.name).write_text(file.read_text().replace("<end_of_image>", "<end>"))
    with pytest.raises(UsageError, match="without eoi_token"):
        original_files.processor_from(tmp_path, ROLES)


def test_frames_of_prompts_need_no_more_than_the_files(read, tmp_path):
    config, processor = read
    for part in (config, processor, original_files.generation_config(processor.tokenizer)):
        part.save_pretrained(tmp_path)
    frame = Frame.load(tmp_path)
    assert (frame.num_drawing_tokens, frame.room) == (4, 64)
    assert json.loads((tmp_path / "generation_config.json").read_text())["generation_kwargs"] == {"boi_token_id": 4}


def test_pickles_are_read_by_pieces(tmp_path):
    state = {"a": torch.randn(7, 3).bfloat16(), "b": torch.arange(6).view(2, 3), "c": torch.randn(4, 2)[1:]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    saved = shards.Saved(tmp_path)
    for name, value in state.items():
        assert saved.specs[name] == shards.Spec(tuple(value.shape), value.dtype)
        assert torch.equal(saved.rows(name, slice(1, 2)), value[1:2])
        assert torch.equal(saved.rows(name, slice(0, len(value))), value)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone tells how much memory was held")
@pytest.mark.parametrize("name", [shards.WEIGHTS, shards.PICKLED])
def test_a_large_tensor_is_never_whole_in_memory(name, tmp_path):
    large = {"a": torch.zeros(1 << 13, 1 << 11)}  # 64 MiB
    (torch.save if name == shards.PICKLED else save_file)(large, tmp_path / name)
    large.clear()
    (tmp_path / "copy").mkdir()
    shards.Saved(tmp_path)  # what is loaded for it is not what is measured
    memory = Memory(torch.device("cpu"))
    saved = shards.Saved(tmp_path)
    shards.write(tmp_path / "copy", saved.specs, lambda name: (saved.rows(name, r) for r in saved.specs[name].pieces()))
    assert memory.peak() < 16, "MiB"
    assert (tmp_path / "copy" / shards.WEIGHTS).stat().st_size > 1 << 26


@pytest.mark.parametrize("old", [{"_use_new_zipfile_serialization": False}, {}])
def test_pickles_of_another_kind_are_refused(old, tmp_path):
    torch.save({"a": torch.ones(3)} if old else {"a": torch.ones(3, 3).T[1:]}, tmp_path / "pytorch_model.bin", **old)
    with pytest.raises(UsageError, match="no plain tensor"):
        shards.Saved(tmp_path)


def test_safetensors_come_before_pickles(tmp_path):
    torch.save({"a": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    save_file({"b": torch.ones(3)}, tmp_path / shards.WEIGHTS)
    assert shards.Saved(tmp_path).specs.keys() == load_file(tmp_path / shards.WEIGHTS).keys()
