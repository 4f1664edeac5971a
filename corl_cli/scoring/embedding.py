"""How far a caption means what a prompt means, word by word, in the hidden states of a text encoder.

BERTScore's greedy matching (arXiv 1904.09675) but not BERTScore: the last layer in place of one tuned for each encoder,
no weighting of words by their rarity, no rescaling against a baseline. Numbers of the two are not to be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from corl_cli.core.requirements import Requirement
from corl_cli.scoring import checkpoints
from corl_cli.scoring.measure import Measured, failed

TEXTS = 64  # encoded at once; bounds memory, not the scores
MAX_TOKENS = 512  # of a text, or fewer where the encoder reads fewer
WEAKEST = 3  # tokens of the prompt that a score's details name


@dataclass(frozen=True)
class Encoded:
    """A text's tokens without special ones, and their last hidden states [T, D], float32 on the CPU."""

    tokens: list[str]
    hidden: Tensor
    cut: bool


class EmbeddingSimilarity:
    """F of greedily matched token embeddings, in 0..1, from any transformers text encoder.

    Of an encoder-decoder (T5) the encoder is used, of CLIP the text tower. A caption without tokens scores 0, a prompt
    without tokens has no score. Longer texts are cut to what the encoder reads, and the details say so.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def requirements(self) -> list[Requirement]:
        """See measure.Model."""
        return [checkpoints.requirement("text encoder", self.checkpoint)]

    def load(self, device: torch.device) -> None:
        """See measure.Model."""
        with checkpoints.reading("text encoder", self.checkpoint) as folder:
            from transformers import AutoModel, AutoTokenizer

            model = checkpoints.weights(AutoModel.from_pretrained, folder, spare="pooler")
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.encoder = _text_encoder(model).to(device)
        positions = getattr(self.encoder.config, "max_position_embeddings", MAX_TOKENS)
        self.max_tokens = min(MAX_TOKENS, positions, self.tokenizer.model_max_length)

    def __call__(self, prompts: Sequence[str], captions: Sequence[str]) -> Measured:
        """See measure.Consistency."""
        texts = list(dict.fromkeys([*prompts, *captions]))
        pieces = [self._encode(texts[start : start + TEXTS]) for start in range(0, len(texts), TEXTS)]
        known = dict(zip(texts, chain.from_iterable(pieces), strict=True))
        pairs = [_measured(known[prompt], known[caption]) for prompt, caption in zip(prompts, captions, strict=True)]
        return Measured(torch.tensor([value for value, _ in pairs]), [details for _, details in pairs])

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> list[Encoded]:
        batch = self.tokenizer(
            texts,
            padding=True,
            padding_side="right",
            truncation=True,
            max_length=self.max_tokens,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        ids, mask = batch.input_ids, batch.attention_mask  # [N, T]
        device = self.encoder.device
        hidden = self.encoder(input_ids=ids.to(device), attention_mask=mask.to(device)).last_hidden_state.cpu()
        words = mask.bool() & ~batch.special_tokens_mask.bool()
        whole = [len(row) for row in self.tokenizer(texts, verbose=False).input_ids]
        return [
            Encoded(
                tokens=[self.tokenizer.decode([token]).strip() for token in ids[row][words[row]].tolist()],
                hidden=hidden[row][words[row]],
                cut=whole[row] > self.max_tokens,
            )
            for row in range(len(texts))
        ]


def _text_encoder(model: Any) -> Any:
    """The half of a model that reads text."""
    return model.get_encoder() if model.config.is_encoder_decoder else getattr(model, "text_model", model)


def greedy_match(prompt: Tensor, caption: Tensor) -> tuple[Tensor, Tensor]:
    """Recall: each prompt token's best cosine with a caption token; precision: the reverse. [S, D], [T, D] -> [S], [T].

    Negative cosines, which agree on nothing, count as 0. Source: arXiv 1904.09675, section 3.
    """
    cosines = (F.normalize(prompt.float(), dim=-1) @ F.normalize(caption.float(), dim=-1).T).clamp(0, 1)  # [S, T]
    return cosines.amax(1), cosines.amax(0)


def f_score(recall: float, precision: float) -> float:
    """The harmonic mean; 0 when both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _measured(prompt: Encoded, caption: Encoded) -> tuple[float, dict[str, str]]:
    if not prompt.tokens:
        return torch.nan, failed("the prompt has no words")
    if not caption.tokens:
        return 0.0, {"missing": "the caption has no words"}
    best, reverse = greedy_match(prompt.hidden, caption.hidden)
    recall, precision = float(best.mean()), float(reverse.mean())
    weakest = [f"'{prompt.tokens[index]}' {float(best[index]):.2f}" for index in best.argsort()[:WEAKEST].tolist()]
    details = {"recall": f"{recall:.3f}", "precision": f"{precision:.3f}", "least met": ", ".join(weakest)}
    if cut := [name for name, text in (("prompt", prompt), ("caption", caption)) if text.cut]:
        details["cut short"] = " and ".join(cut)
    return f_score(recall, precision), details
