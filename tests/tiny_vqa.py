"""Random tiny models that answer questions about images: a BLIP for VQA, and a chat model that sees (Qwen2-VL)."""

import torch
from conftest import bert_tokenizer, enliven, saved

TEMPLATE = """{% for message in messages %}<|im_start|> {{ message['role'] }}
{% for part in message['content'] %}
{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}
{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|> assistant {% endif %}"""


def tiny_blip_vqa(folder):
    """The folder of a random tiny BlipForQuestionAnswering that writes words of the world."""
    from transformers import BlipConfig, BlipForQuestionAnswering, BlipImageProcessorPil

    tokenizer = bert_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), "encoder_hidden_size": 32, "initializer_range": 0.5, **sizes, **ids}
    vision = {"image_size": 32, "patch_size": 8, "initializer_range": 0.5, **sizes}
    torch.manual_seed(0)
    model = BlipForQuestionAnswering(
        BlipConfig(text_config={**text, "max_position_embeddings": 64}, vision_config=vision)
    )
    return saved(folder, model, tokenizer, BlipImageProcessorPil(size={"height": 32, "width": 32}))


def tiny_chat(folder, says=None):
    """The folder of a random tiny Qwen2VLForConditionalGeneration; `says` is a word that it answers to everything."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration, Qwen2VLImageProcessorPil

    tokenizer, words = _chat_words()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    ids = {"bos_token_id": words["<|im_start|>"], "eos_token_id": words["<|im_end|>"], "pad_token_id": words["<pad>"]}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "patch_size": 8, "mlp_ratio": 2}
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config={"vocab_size": len(words), "num_key_value_heads": 2, "rope_parameters": rope, **sizes, **ids},
            vision_config=vision,
            image_token_id=words["<|image_pad|>"],
            video_token_id=words["<|video_pad|>"],
            vision_start_token_id=words["<|vision_start|>"],
            vision_end_token_id=words["<|vision_end|>"],
        )
    )
    enliven(model)
    if says:
        _answer(model, words[says], words["<|im_end|>"])
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, min_pixels=32 * 32, max_pixels=32 * 32)
    return saved(folder, model, tokenizer, images)


def _chat_words():
    """A tokenizer of whole words with Qwen2-VL's marks, and its words' ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from corl_cli.world.language import vocabulary

    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    spoken = ["user", "assistant", "yes", "no", "maybe", "dog", "cat", ":", "Is", "there", *vocabulary()]
    words = {word: i for i, word in enumerate(dict.fromkeys(["<pad>", "<unk>", *marks, *spoken]))}
    tokenizer = Tokenizer(models.WordLevel(words, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<|im_end|>",
        additional_special_tokens=[mark for mark in marks if mark != "<|im_end|>"],
    )
    wrapped.chat_template = TEMPLATE
    return wrapped, words


def _answer(model, word, end):
    """Make the model write one word and stop: its layers add nothing, each token decides the next one."""
    for layer in model.model.language_model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
        layer.mlp.down_proj.weight.data.zero_()
    rows = model.model.language_model.embed_tokens.weight.data
    rows[:] = 0
    rows[:, 0] = 1.0  # every token looks alike,
    rows[word, 1] = 1.0  # but for the word
    head = model.lm_head.weight.data = torch.zeros_like(rows)
    head[word, 0], head[end, 1] = 1.0, 9.0
