"""Janus and Janus-Pro as a UnifiedPolicy, on transformers' own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from PIL import Image
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    JanusConfig,
    JanusForConditionalGeneration,
    JanusImageProcessorPil,
    JanusProcessor,
)

from corl_cli.core.errors import CorlError
from corl_cli.core.types import Rollout, Sampling, Task, Triplet
from corl_cli.models.base import Embedded, Scored, UnifiedPolicy
from corl_cli.models.logprobs import token_logps
from corl_cli.models.noise import row_keys
from corl_cli.models.prompts import ChatPrompts
from corl_cli.models.sampling import Decoder, draw, write

DECODE_PIXELS = 1 << 21  # pixels decoded or encoded by the VQ model at once: 14 images of Janus-Pro
CACHE_BYTES = 8 << 30  # keys and values held at once while sampling


class JanusPolicy(UnifiedPolicy):
    """Draws with the image head over VQ tokens, answers with the language head over text tokens.

    The language model (embeddings and lm_head included) learns, in float32; vision tower, aligners, VQ model, image
    head and image embeddings are frozen (paper, settings) and held in the compute precision.
    """

    def __init__(self, model: JanusForConditionalGeneration, processor: JanusProcessor, dtype: str = "float32") -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.image_token_id: int = model.config.image_token_id
        self.num_image_tokens: int = model.config.vision_config.num_image_tokens
        self.prompts = ChatPrompts(processor, self.num_image_tokens)
        self.num_drawing_tokens: int = model.model.vqmodel.quantize.quant_state_dims[0] ** 2
        self._decoder: Decoder | None = None
        _freeze(model, self.dtype)

    @classmethod
    def load(cls, path: str | Path, *, dtype: str = "float32", attention: str = "sdpa") -> JanusPolicy:
        """See UnifiedPolicy.load."""
        try:
            model, report = JanusForConditionalGeneration.from_pretrained(
                path, config=_config(path), dtype=torch.float32, attn_implementation=attention, output_loading_info=True
            )
            tokenizer = AutoTokenizer.from_pretrained(path)
            image_processor = JanusImageProcessorPil.from_pretrained(path)
            template = getattr(tokenizer, "chat_template", None)
            processor = JanusProcessor.from_pretrained(path, tokenizer=tokenizer, image_processor=image_processor)
            processor.chat_template = processor.chat_template or template
        except Exception as error:
            raise _unreadable(path, error) from error
        if report["missing_keys"] or report["mismatched_keys"]:
            missing = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
            raise CorlError(
                f"{path} is not a whole Janus checkpoint: {len(missing)} tensors are missing or misshapen, "
                f"{missing[0]} for one.",
                "Copy or convert it again.",
            )
        return cls(model, processor, dtype)

    @classmethod
    def count(cls, path: str | Path) -> tuple[int, int]:
        """See UnifiedPolicy.count."""
        try:
            config = _config(path)
        except Exception as error:
            raise _unreadable(path, error) from error
        with torch.device("meta"):
            model = JanusForConditionalGeneration(config)
        _freeze(model, torch.float32)
        learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return learn, sum(p.numel() for p in model.parameters()) - learn

    def weights(self) -> dict[str, Tensor]:
        """See UnifiedPolicy.weights."""
        return dict(self.model.state_dict())

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """See UnifiedPolicy.save."""
        self.model.save_pretrained(path, state_dict=weights)
        self.processor.save_pretrained(path)

    def learn(self, tasks: Sequence[Task]) -> None:
        """See UnifiedPolicy.learn: drawing does not touch the language head."""
        self.model.lm_head.requires_grad_("mm2t" in tasks)

    def trainable(self) -> list[nn.Parameter]:
        """See UnifiedPolicy.trainable."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def checkpoint_layers(self) -> None:
        """See UnifiedPolicy.checkpoint_layers."""
        self.model.model.language_model.gradient_checkpointing_enable({"use_reentrant": False})

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.lm_head.weight.device

    # ---- rollouts -------------------------------------------------------------------------------------------------

    def sample(self, task: Task, triplets: Sequence[Triplet], sampling: Sampling, *, key: str) -> Rollout:
        """See UnifiedPolicy.sample."""
        ids, mask, pixels = self._prompts(task, triplets)
        rows = [t for t in triplets for _ in range(sampling.group_size)]
        labels = (f"{task}|{key}|{t.id}|{sample}" for t in triplets for sample in range(sampling.group_size))
        tokens, written, logps = self.complete(task, ids, mask, pixels, sampling, row_keys(labels, self.device))
        outputs: Sequence[Any] = self.decode_images(tokens) if task == "t2i" else self.prompts.read(tokens, written)
        return Rollout(
            task=task,
            triplets=rows,
            prompt_ids=ids.repeat_interleave(sampling.group_size, 0),
            prompt_mask=mask.repeat_interleave(sampling.group_size, 0),
            pixel_values=pixels,
            completion_ids=tokens,
            completion_mask=written,
            logps=logps,
            truncated=written.all(1) & (tokens[:, -1] != self.tokenizer.eos_token_id) & (task == "mm2t"),
            outputs=list(outputs),
            sampling=sampling,
        )

    def complete(
        self, task: Task, ids: Tensor, mask: Tensor, pixels: Tensor | None, sampling: Sampling, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Completion tokens, their mask and log-probs [N, L] for encoded prompts [B, P]; one noise key for each row.

        As many prompts go at once as their keys and values fit into CACHE_BYTES.
        """
        limit = self.num_drawing_tokens if task == "t2i" else sampling.max_new_tokens
        self._check_length(ids, limit)
        config, group = self.model.config.text_config, len(keys) // len(ids)
        columns = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * self.dtype.itemsize
        halves = 2 if task == "t2i" and sampling.cfg_weight != 1 else 1
        size = max(1, CACHE_BYTES // (group * halves * (ids.shape[1] + limit) * columns))  # prompts at once
        parts = [
            self._complete(task, ids[rows], mask[rows], None if pixels is None else pixels[rows], sampling, own)
            for rows, own in zip(
                torch.arange(len(ids), device=ids.device).split(size), keys.split(size * group), strict=True
            )
        ]
        longest = max(part[0].shape[1] for part in parts)
        fills = (self.tokenizer.pad_token_id, False, 0.0)
        tokens, written, logps = (
            torch.cat([F.pad(tensor, (0, longest - tensor.shape[1]), value=fill) for tensor in tensors])
            for tensors, fill in zip(zip(*parts, strict=True), fills, strict=True)
        )
        return tokens, written, logps

    def _complete(
        self, task: Task, ids: Tensor, mask: Tensor, pixels: Tensor | None, sampling: Sampling, keys: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        with self._inference():
            decoder = self._fresh_decoder()
            prompts = decoder.embed(ids)
            if task == "mm2t":
                assert pixels is not None
                prompts = self._place(prompts, ids, self._see(pixels))
                eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
                return write(decoder, prompts, mask, sampling, keys, eos, pad)
            unconditional = decoder.embed(self.prompts.unconditional(ids)) if sampling.cfg_weight != 1 else None
            vocabulary = torch.arange(self.model.config.vq_config.num_embeddings, device=self.device)
            embeddings = self.model.prepare_embeddings_for_image_generation(vocabulary)
            head, length = self.model.model.generation_head, self.num_drawing_tokens
            tokens, logps = draw(decoder, prompts, mask, head, embeddings, sampling, keys, length, unconditional)
            return tokens, torch.ones_like(tokens, dtype=torch.bool), logps

    def encode(
        self, task: Task, triplets: Sequence[Triplet], targets: Sequence[str] | Sequence[Image.Image]
    ) -> Rollout:
        """See UnifiedPolicy.encode."""
        ids, mask, pixels = self._prompts(task, triplets)
        if task == "t2i":
            tokens = self.encode_images([target for target in targets if isinstance(target, Image.Image)])
            written = torch.ones_like(tokens, dtype=torch.bool)
        else:
            tokens, written = (tensor.to(self.device) for tensor in self.prompts.complete([str(t) for t in targets]))
        return Rollout(
            task=task,
            triplets=list(triplets),
            prompt_ids=ids,
            prompt_mask=mask,
            pixel_values=pixels,
            completion_ids=tokens,
            completion_mask=written,
            logps=None,
            truncated=torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device),
            outputs=list(targets),
            sampling=Sampling(),
        )

    # ---- scoring --------------------------------------------------------------------------------------------------

    def forward(self, rollout: Rollout) -> Scored:
        """See UnifiedPolicy.forward.

        With a prompt of P tokens, hidden state P - 1 + k predicts completion token k: the rows fed are the prompt and
        all completion tokens but the last, and the states kept are those from P - 1 on.
        """
        with self._autocast():
            prompts = self.model.get_input_embeddings()(rollout.prompt_ids)
            if rollout.task == "t2i":
                fed = self.model.prepare_embeddings_for_image_generation(rollout.completion_ids[:, :-1])
                head, vocab_size = self.model.model.generation_head, self.model.config.vq_config.num_embeddings
            else:
                assert rollout.pixel_values is not None
                seen = self._see(rollout.pixel_values).repeat_interleave(rollout.sampling.group_size, 0)
                prompts = self._place(prompts, rollout.prompt_ids, seen)
                fed = self.model.get_input_embeddings()(rollout.completion_ids[:, :-1])
                head, vocab_size = self.model.lm_head, self.model.config.text_config.vocab_size
            mask = torch.cat([rollout.prompt_mask, rollout.completion_mask[:, :-1].long()], 1)
            hidden = self._hidden(torch.cat([prompts, fed.to(prompts.dtype)], 1), mask)
            return token_logps(
                head,
                hidden[:, rollout.prompt_ids.shape[1] - 1 :],
                rollout.completion_ids,
                rollout.completion_mask,
                rollout.sampling.temperature or 1.0,
                vocab_size,
            )

    def embed(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Embedded:
        """See UnifiedPolicy.embed."""
        ids, mask, spans = (tensor.to(self.device) for tensor in self.prompts.caption(prompts))
        with self._inference():
            pixels = self._pixels(images)
            embeds = self._place(self.model.get_input_embeddings()(ids), ids, self._see(pixels))
            hidden = self._hidden(embeds, mask)
        seen = hidden[ids == self.image_token_id].view(len(images), self.num_image_tokens, -1)
        return Embedded(seen, hidden, spans, ids)

    def words(self, ids: Tensor) -> list[str]:
        """See UnifiedPolicy.words."""
        unknown = self.tokenizer.unk_token_id
        return [
            "(word not in the vocabulary)" if token == unknown else str(self.tokenizer.decode([token]))
            for token in ids.tolist()
        ]

    # ---- images ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def decode_images(self, tokens: Tensor) -> list[Image.Image]:
        """VQ tokens [N, L] to N RGB images."""
        size = self.model.config.vision_config.image_size
        images: list[Image.Image] = []
        for chunk in tokens.split(max(1, DECODE_PIXELS // size**2)):
            decoded = self.model.decode_image_tokens(chunk).float().clamp(-1, 1)  # [n, H, W, 3]
            arrays = ((decoded + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
            images += [Image.fromarray(array) for array in arrays]
        return images

    @torch.no_grad()
    def encode_images(self, images: Sequence[Image.Image]) -> Tensor:
        """N images to VQ tokens [N, L]: nearest code by cosine, as in Janus' original VQ model.

        (transformers' encode leaves out the normalisation of latents and codes that its decode applies.)
        """
        vq = self.model.model.vqmodel
        codes = F.normalize(vq.quantize.embedding.weight, dim=-1)
        size = max(1, DECODE_PIXELS // self.model.config.vision_config.image_size**2)
        tokens = []
        for start in range(0, len(images), size):
            latents = vq.quant_conv(vq.encoder(self._pixels(images[start : start + size])))  # [n, E, h, w]
            latents = F.normalize(latents.flatten(2).transpose(1, 2), dim=-1)
            tokens.append((latents @ codes.T).argmax(-1))
        return torch.cat(tokens)

    # ---- inside ---------------------------------------------------------------------------------------------------

    def _prompts(self, task: Task, triplets: Sequence[Triplet]) -> tuple[Tensor, Tensor, Tensor | None]:
        """Left-padded prompt ids and mask [B, P], and pixel values [B, C, H, W] of the images asked about."""
        if task == "t2i":
            ids, mask = self.prompts.draw([triplet.prompt for triplet in triplets])
            return ids.to(self.device), mask.to(self.device), None
        ids, mask = self.prompts.ask([triplet.question for triplet in triplets])
        return ids.to(self.device), mask.to(self.device), self._pixels([triplet.image for triplet in triplets])

    def _pixels(self, images: Sequence[Image.Image]) -> Tensor:
        rgb = [image.convert("RGB") for image in images]
        return self.processor.image_processor(rgb, return_tensors="pt").pixel_values.to(self.device, self.dtype)

    def _see(self, pixels: Tensor) -> Tensor:
        """Features [B, K, D] of images [B, C, H, W] in the language model's space."""
        return self.model.model.get_image_features(pixels).pooler_output

    def _place(self, embeds: Tensor, ids: Tensor, features: Tensor) -> Tensor:
        """Put image features [N, K, D] where the ids have image placeholders."""
        return embeds.masked_scatter((ids == self.image_token_id)[..., None], features.to(embeds.dtype))

    def _hidden(self, embeds: Tensor, mask: Tensor) -> Tensor:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        language_model = self.model.model.language_model
        return language_model(
            inputs_embeds=embeds, attention_mask=mask, position_ids=positions, use_cache=False
        ).last_hidden_state

    def _check_length(self, ids: Tensor, new_tokens: int) -> None:
        room = self.model.config.text_config.max_position_embeddings
        if ids.shape[1] + new_tokens > room:
            raise CorlError(
                f"A prompt of {ids.shape[1]} tokens and {new_tokens} new ones exceed the model's context of {room}.",
                "Shorten the prompts or lower sampling.mm2t.max_new_tokens.",
            )

    def _fresh_decoder(self) -> Decoder:
        if self._decoder is None or self._decoder.words.device != self.device:
            self._decoder = Decoder(self.model.model.language_model, self.model.lm_head, self.dtype)
        self._decoder.refresh()
        return self._decoder

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """eval() without gradients: training mode with checkpointing silently corrupts generation."""
        training = self.training
        self.eval()
        try:
            with torch.no_grad(), self._autocast():
                yield
        finally:
            self.train(training)


def _config(path: str | Path) -> JanusConfig:
    """The checkpoint's configuration; Janus never ties its embeddings, though transformers' default says so."""
    config = JanusConfig.from_pretrained(path)
    config.tie_word_embeddings = False
    return config


def _unreadable(path: str | Path, error: Exception) -> CorlError:
    if isinstance(error.__cause__, (HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError)):
        reason = "there is no such folder here, and no such model could be had from the hub."
    else:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return CorlError(
        f"No Janus checkpoint could be read from {path}: {reason}",
        "Give a folder in transformers' format, a corl run, or a hub id that this machine can reach.",
    )


def _freeze(model: JanusForConditionalGeneration, dtype: torch.dtype) -> None:
    model.requires_grad_(False)
    model.model.language_model.requires_grad_(True)
    model.lm_head.requires_grad_(True)
    inner = model.model
    for part in (
        inner.vision_model,
        inner.aligner,
        inner.vqmodel,
        inner.generation_embeddings,
        inner.generation_aligner,
        inner.generation_head,
    ):
        part.to(dtype)
