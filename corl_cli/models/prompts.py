"""Janus' chat prompts as token ids: requests to draw, questions about images, images with their captions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from corl_cli.core.errors import CorlError
from corl_cli.models.loading import read_config, read_processor

if TYPE_CHECKING:
    from transformers import JanusProcessor


class ChatPrompts:
    """Renders prompts in the checkpoint's own chat format and tokenises them, left-padded.

    The system prompt is empty, as in the paper; each image is spelt out as `num_image_tokens` placeholders between
    begin and end of image. Texts of users are words and nothing else: what reads like a special token in them
    ("<image_placeholder>") is broken by a space ("< image_placeholder>").
    """

    def __init__(self, processor: JanusProcessor, num_image_tokens: int) -> None:
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.num_image_tokens = num_image_tokens
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        special = sorted(added | set(self.tokenizer.all_special_tokens), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, special)))
        self.boi_id: int = self.tokenizer.convert_tokens_to_ids(self.tokenizer.boi_token)

    def draw(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, P] of requests to draw; the last token is begin-of-image."""
        encoded = self._tokenize([self._render(prompt, image=False) + self.tokenizer.boi_token for prompt in prompts])
        return encoded.input_ids, encoded.attention_mask

    def ask(self, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, P] of questions, each about one image."""
        encoded = self._tokenize([self._render(question, image=True) for question in questions])
        return encoded.input_ids, encoded.attention_mask

    def caption(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, mask and prompt mask [B, T] of images followed by their prompts, with nothing to answer.

        The prompt mask marks the tokens that overlap the prompt's characters: no template, special or padding tokens.
        """
        texts = [self._render(prompt, image=True, answer=False) for prompt in prompts]
        encoded = self._tokenize(texts, return_offsets_mapping=True)
        bare = [self._escape(prompt).strip() for prompt in prompts]
        spans = [(text.rindex(prompt), len(prompt)) for text, prompt in zip(texts, bare, strict=True)]
        first, length = torch.tensor(spans)[:, :, None].unbind(1)
        starts, ends = encoded.offset_mapping.unbind(-1)
        inside = (ends > first) & (starts < first + length) & (ends > starts) & encoded.attention_mask.bool()
        return encoded.input_ids, encoded.attention_mask, inside

    def complete(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask [B, L] of given completions with their end-of-sequence token, right-padded."""
        ended = [f"{self._escape(text)}{self.tokenizer.eos_token}" for text in texts]
        encoded = self.tokenizer(
            ended, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        )
        return encoded.input_ids, encoded.attention_mask.bool()

    def unconditional(self, ids: Tensor) -> Tensor:
        """The empty prompt of classifier-free guidance: every token but BOS and begin-of-image becomes padding.

        The attention mask stays that of the conditional row (the rule of Janus' own sampler).
        """
        keep = (ids == self.tokenizer.bos_token_id) | (ids == self.boi_id)
        return ids.where(keep, self.tokenizer.pad_token_id)

    def read(self, tokens: Tensor, written: Tensor) -> list[str]:
        """The texts of completions [N, L] where `written`."""
        rows = [ids[mask].tolist() for ids, mask in zip(tokens.cpu(), written.cpu(), strict=True)]
        return [text.strip() for text in self.tokenizer.batch_decode(rows, skip_special_tokens=True)]

    def _render(self, text: str, *, image: bool, answer: bool = True) -> str:
        content = [{"type": "image"}] * image + [{"type": "text", "text": self._escape(text)}]
        messages = [{"role": "user", "content": content}]
        rendered: str = self.processor.apply_chat_template(messages, add_generation_prompt=answer)
        token = self.tokenizer.image_token
        spelt = f"{self.tokenizer.boi_token}{token * self.num_image_tokens}{self.tokenizer.eoi_token}"
        return rendered.replace(token, spelt, 1) if image else rendered

    def _escape(self, text: str) -> str:
        return self._special.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

    def _tokenize(self, texts: list[str], **options: Any) -> Any:
        return self.tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", **options)


@dataclass(frozen=True, kw_only=True)
class Frame:
    """What a checkpoint says about prompts without its weights: their format, and how many tokens there is room for."""

    prompts: ChatPrompts
    image_token_id: int
    num_drawing_tokens: int
    room: int

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The frame of the checkpoint at `path` (a folder or a hub id); CorlError when it is missing or damaged."""
        try:
            config, processor = read_config(path), read_processor(path)
        except CorlError:
            raise
        except Exception as error:  # as many kinds as there are ways to be damaged
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise CorlError(
                f"No tokenizer of a Janus could be read from {path}: {reason}",
                "Give a folder, a run or a hub id that this machine can reach: --set model.checkpoint=…",
            ) from error
        return cls(
            prompts=ChatPrompts(processor, config.vision_config.num_image_tokens),
            image_token_id=config.image_token_id,
            num_drawing_tokens=config.vq_config.num_patches**2,
            room=config.text_config.max_position_embeddings,
        )
