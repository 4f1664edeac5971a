"""Small real parts that many tests stand on: a random tiny Janus and some triplets of the world."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest -n 2 runs on two cores
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from hypothesis import HealthCheck, settings

# a busy machine must not fail a test: nothing here is about time
settings.register_profile("corl", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("corl")


@pytest.fixture(scope="session")
def policy():
    """A random tiny Janus of the real class, shared: leave its weights as they were (`policy.start`)."""
    import torch

    from corl_cli.models.janus import JanusPolicy
    from corl_cli.world.tiny import build_model, build_processor

    torch.manual_seed(0)
    processor = build_processor()
    policy = JanusPolicy(build_model(processor), processor)
    for parameter in policy.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.08)  # livelier than the default, whose outputs are nearly constant
    policy.eval()
    policy.start = {name: value.clone() for name, value in policy.state_dict().items()}
    return policy


@pytest.fixture(scope="session")
def triplets():
    """Six triplets of the world, prompts and questions of several lengths."""
    from corl_cli.world.items import WorldTriplets

    return WorldTriplets("train", 6, seed=0)[:]


@pytest.fixture(scope="session")
def tiny_blip(tmp_path_factory):
    """The folder of a random tiny BlipForConditionalGeneration, whose captions differ from image to image."""
    import torch
    from transformers import BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

    tokenizer = bert_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), "encoder_hidden_size": 32, "initializer_range": 0.5, **sizes, **ids}
    vision = {"image_size": 32, "patch_size": 8, "initializer_range": 0.5, **sizes}  # the default 1e-10 is blind
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(text_config={**text, "max_position_embeddings": 64}, vision_config=vision)
    )
    images = BlipImageProcessorPil(size={"height": 32, "width": 32})
    return saved(tmp_path_factory.mktemp("tiny") / "blip", model, tokenizer, images)


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """The folder of a random tiny CLIPModel; it reads texts of at most 12 tokens, start and end included."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    tokenizer = bert_tokenizer()
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 12, **sizes, **ids}
    torch.manual_seed(0)
    model = CLIPModel(
        CLIPConfig(text_config=text, vision_config={"image_size": 32, "patch_size": 8, **sizes}, projection_dim=16)
    )
    enliven(model)
    images = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return saved(tmp_path_factory.mktemp("tiny") / "clip", model, tokenizer, images)


@pytest.fixture(scope="session")
def tiny_text_encoder(tmp_path_factory):
    """The folder of a random tiny BertModel of the world's words; it reads at most 24 tokens, marks included."""
    import torch
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=24,
        )
    )
    enliven(model)
    return saved(tmp_path_factory.mktemp("tiny") / "text_encoder", model, tokenizer)


def bert_tokenizer():
    """Whole words of the world between [CLS] (2) and [SEP] (3); padding is 0, an unknown word 1."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    from corl_cli.world.language import vocabulary

    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*marks, *vocabulary()])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def enliven(model):
    """Larger random weights: the default's outputs are nearly the same for every input."""
    import torch

    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)


def saved(folder, *parts):
    """The folder, with the parts saved into it."""
    for part in parts:
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def built_set(tmp_path):
    """`built_set(train=12, test=4, change=…)` writes a set of the world in the builder's format and returns its folder.

    `change(split, number, row)` alters a row before it is written; 5 rows go into a file.
    """
    return lambda change=None, **splits: write_set(tmp_path / "set", splits or {"train": 12, "test": 4}, change)


def write_set(folder, splits, change=None):
    """See built_set."""
    import io

    from datasets import Dataset, Features, Image, Value

    from corl_cli.core.recipe import Recipe
    from corl_cli.data import manifest
    from corl_cli.world.items import WorldTriplets

    texts = ("id", "prompt", "question", "answer", "answer_type", "source")
    features = Features({name: Value("string") for name in texts} | {"image": Image(), "coverage": Value("float32")})
    (folder / "data").mkdir(parents=True)
    parts = {}
    for split, number in splits.items():
        rows = []
        for index, triplet in enumerate(WorldTriplets(split, number, seed=0)):
            encoded = io.BytesIO()
            triplet.image.save(encoded, "PNG")
            row = {name: getattr(triplet, name) for name in texts}
            row |= {"image": {"bytes": encoded.getvalue(), "path": None}, "coverage": index / number}
            if change:
                change(split, index, row)
            rows.append(row)
        files = []
        count = -(-number // 5)
        for part in range(count):
            file = folder / "data" / f"{split}-{part:05d}-of-{count:05d}.parquet"
            Dataset.from_list(rows[part * 5 : part * 5 + 5], features=features).to_parquet(file)
            files.append(manifest.describe(folder, file))
        parts[split] = {"rows": number, "files": files}
    total = sum(splits.values())
    counts = {"offered": total + 3, "kept": total, "dropped": {"no caption": 2, "image missing": 1}, "coverage": 0.5}
    recipe = Recipe.model_validate(
        {"name": "by-hand", "prepare": {"shard_size": 5}, "train": {"tasks": ["mm2t"]}, "algo": {"credit": "per_task"}}
        | {"rewards": {"mm2t": [{"name": "accuracy"}]}}
    )
    manifest.write(
        folder,
        {
            "corl": "0",
            "libraries": {},
            "created": "2000-01-01T00:00:00+00:00",
            "seed": 0,
            "recipe": recipe.model_dump(mode="json"),
            "files": [],
            "sources": {"world": counts},
            "total": counts,
            "splits": parts,
            "columns": list(features),
        },
    )
    return folder
