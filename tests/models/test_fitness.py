import json
import shutil

import pytest

from corl_cli import world
from corl_cli.core.errors import CorlError
from corl_cli.models import fitness


@pytest.fixture
def copy(tmp_path):
    """The tiny Janus, to be damaged."""
    return shutil.copytree(world.checkpoint(), tmp_path / "janus")


def refusal(path):
    with pytest.raises(CorlError) as caught:
        fitness.check(path)
    assert caught.value.hint
    return caught.value.message.splitlines()


def change(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def test_the_shipped_model_fits():
    fitness.check(world.checkpoint())


def test_a_folder_that_holds_no_model(tmp_path):
    assert "there is no config.json in it" in refusal(tmp_path)[0]


def test_a_name_that_is_nowhere():
    assert "no such model could be had from the hub" in refusal("nowhere/at-all")[0]


def test_another_kind_of_model(copy):
    change(copy / "config.json", model_type="clip")
    assert "is no Janus: its config.json says clip" in refusal(copy)[0]


def test_weights_that_are_missing(copy):
    (copy / "model.safetensors").unlink()
    assert "has no weights" in refusal(copy)[0]
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    (copy / "one.safetensors").touch()
    missing, empty = refusal(copy)
    assert "lacks 1 of 2 files of weights, two.safetensors for one" in missing
    assert "has a damaged one.safetensors" in empty
    (copy / "model.safetensors.index.json").write_text("{}")
    assert "has a damaged model.safetensors.index.json" in refusal(copy)[0]


@pytest.mark.parametrize("share", [0, 0.5])
def test_weights_that_are_damaged(copy, share):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    assert "has a damaged model.safetensors" in refusal(copy)[0]


def test_every_misfit_has_a_line(copy):
    config = json.loads((copy / "config.json").read_text())
    change(copy / "config.json", text_config=config["text_config"] | {"vocab_size": 60})
    (copy / "chat_template.jinja").unlink()
    (copy / "model.safetensors").unlink()
    weights, tokens, template = refusal(copy)
    assert "has no weights" in weights
    assert "has a tokenizer of 64 tokens for a model that embeds 60" in tokens
    assert "has no chat template" in template


def test_a_tokenizer_without_image_tokens(copy):
    (copy / "tokenizer_config.json").write_text("{}")
    assert "image_token, boi_token" in refusal(copy)[0]


def test_an_image_token_of_another_number(copy):
    change(copy / "config.json", image_token_id=1)
    assert "where the model expects 1" in refusal(copy)[0]
