"""Yes/no questions about images, put to a transformers model: BLIP trained for VQA, or a chat model that sees.

Both answer greedily and in float32, so that an answer does not depend on what else is in the batch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from corl_cli.core.requirements import Requirement
from corl_cli.scoring import checkpoints

QUESTION = "{question} Answer with one word: yes or no."  # BLIP, trained on bare questions, is asked them bare
ROWS = 16  # questions asked at once; bounds memory, not the answers
MAX_NEW_TOKENS = 8  # enough for "**Yes.**"

_BLIP = "BlipForQuestionAnswering"


def is_yes(answer: str) -> bool:
    """Whether an answer is yes rather than no, whatever its case, marks and emphasis; ValueError if neither."""
    word = re.sub(r"[\W_]+", " ", answer).strip().lower()
    if word not in ("yes", "no"):
        raise ValueError("an answer is neither yes nor no")
    return word == "yes"


class Family(Protocol):
    """One kind of model, loaded."""

    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The answer to each question about the image in its place."""


class VqaModel:
    """Any BlipForQuestionAnswering (arXiv 2201.12086), or any chat model of AutoModelForImageTextToText."""

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def requirements(self) -> list[Requirement]:
        """The checkpoint, and torchvision for all that is not known to be BLIP."""
        needs = [checkpoints.requirement("VQA model", self.checkpoint)]
        if find_spec("torchvision") is None and not self._is_blip():
            needs.append(
                Requirement(
                    name="torchvision",
                    state="missing",
                    detail=f"transformers reads images with it for {self.checkpoint}",
                    remedy="in corl's folder: pip install '.[eval]'; "
                    "or ask a BLIP: scorer=Salesforce/blip-vqa-capfilt-large",
                )
            )
        return needs

    def load(self, device: torch.device) -> None:
        """Bring the model to the device; CorlError when it cannot be read, or cannot be asked."""
        with checkpoints.reading("VQA model", self.checkpoint) as folder:
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(folder)
            family: type[Blip] | type[Chat] = Blip if config.model_type == "blip" else Chat
            self.family: Family = family(folder, config, device)

    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """The answer to each question about the image in its place; an image may stand in several places."""
        answers: list[str] = []
        for start in range(0, len(questions), ROWS):
            answers += self.family.ask(images[start : start + ROWS], questions[start : start + ROWS])
        return answers

    def _is_blip(self) -> bool:
        """Whether the configuration is here and says so."""
        from transformers import PretrainedConfig

        try:
            config, _ = PretrainedConfig.get_config_dict(self.checkpoint, local_files_only=True)
        except (OSError, ValueError):  # not here yet, or damaged: the checkpoint's own requirement says which
            return False
        return config.get("model_type") == "blip"


class Blip:
    """BlipForQuestionAnswering."""

    def __init__(self, folder: Path, config: Any, device: torch.device) -> None:
        if _BLIP not in (config.architectures or [_BLIP]):
            raise ValueError(f"it holds a {config.architectures[0]}, not a {_BLIP}")
        from transformers import AutoTokenizer, BlipForQuestionAnswering, BlipImageProcessorPil, GenerationConfig

        self.pixels = BlipImageProcessorPil.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = checkpoints.weights(BlipForQuestionAnswering.from_pretrained, folder).to(device)
        self.context: int = self.model.config.text_config.max_position_embeddings
        self.model.text_decoder.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1
        )

    @torch.no_grad()
    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """See Family. Questions of one length go together: transformers' BLIP attends to the padding of others."""
        read = self.tokenizer(list(questions), truncation=True, max_length=self.context).input_ids
        by_length: dict[int, list[int]] = {}
        for place, words in enumerate(read):
            by_length.setdefault(len(words), []).append(place)
        answers = [""] * len(questions)
        for places in by_length.values():
            pixels = self.pixels([images[place] for place in places], return_tensors="pt").pixel_values
            words = torch.tensor([read[place] for place in places])
            tokens = self.model.generate(words.to(self.model.device), pixels.to(self.model.device))
            said = self.tokenizer.batch_decode(tokens[:, 1:], skip_special_tokens=True)
            for place, text in zip(places, said, strict=True):
                answers[place] = text.strip()
        return answers


class Chat:
    """A chat model that sees, asked by its own chat template for one word."""

    def __init__(self, folder: Path, config: Any, device: torch.device) -> None:
        from transformers import AutoModelForImageTextToText, AutoProcessor, GenerationConfig
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as SEEING

        if config.model_type not in SEEING:
            raise ValueError(f"a {config.model_type} model cannot be asked about images")
        self.processor = AutoProcessor.from_pretrained(folder)
        if not getattr(self.processor, "chat_template", None):
            raise ValueError("it has no chat template, so it cannot be asked")
        self.processor.tokenizer.padding_side = "left"
        self.model = checkpoints.weights(AutoModelForImageTextToText.from_pretrained, folder).to(device)
        told = self.model.generation_config
        ends = told.eos_token_id or self.processor.tokenizer.eos_token_id
        padding = self.processor.tokenizer.pad_token_id
        # in place of the checkpoint's own settings, which may sample or penalise
        self.model.generation_config = GenerationConfig(
            max_new_tokens=MAX_NEW_TOKENS, do_sample=False, num_beams=1, eos_token_id=ends, pad_token_id=padding
        )

    @torch.no_grad()
    def ask(self, images: Sequence[Image.Image], questions: Sequence[str]) -> list[str]:
        """See Family."""
        batch = self.processor.apply_chat_template(
            [_said(image, question) for image, question in zip(images, questions, strict=True)],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            processor_kwargs={"padding": True, "return_tensors": "pt"},
        ).to(self.model.device)
        tokens = self.model.generate(**batch)[:, batch["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(tokens, skip_special_tokens=True)]


def _said(image: Image.Image, question: str) -> list[dict[str, Any]]:
    words = {"type": "text", "text": QUESTION.format(question=question)}
    return [{"role": "user", "content": [{"type": "image", "image": image}, words]}]
