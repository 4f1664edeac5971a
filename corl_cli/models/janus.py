"""Janus and Janus-Pro as a UnifiedPolicy, on transformers' own classes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import JanusForConditionalGeneration, JanusProcessor

from corl_cli.core.errors import CorlError
from corl_cli.core.recipe import Lora, Part
from corl_cli.core.types import Rollout, Sampling, Task, Triplet
from corl_cli.models import images, loading, lora, parts
from corl_cli.models.base import Count, Embedded, Scored, UnifiedPolicy
from corl_cli.models.decoder import Decoder, cache_bytes
from corl_cli.models.logprobs import Mixed, token_logps
from corl_cli.models.noise import row_keys
from corl_cli.models.packing import Packing, checkpoint_layers, install, lay_out, run
from corl_cli.models.prompts import ChatPrompts
from corl_cli.models.sampling import draw, write

CACHE_BYTES = 8 << 30  # keys and values held at once while sampling, and besides them ...
IDLE_BYTES = 6  # ... for each weight that learns, whose gradient (4) and part in activations are not there meanwhile


def cache_room(learning: int) -> int:
    """Bytes of keys and values that sampling holds at once, for so many weights that learn.

    8 prompts of Janus-Pro-1B with 8 guided drawings each go at once where all of its language model learns.
    """
    return CACHE_BYTES + IDLE_BYTES * learning


class JanusPolicy(UnifiedPolicy):
    """Draws with the image head over VQ tokens, answers with the language head over text tokens.

    The parts in `train` learn in float32, or adapters in the language model's place; the rest is frozen and held in the
    compute precision, the VQ model always. As in the paper the default is the language model, embeddings and lm_head
    included.
    """

    def __init__(
        self,
        model: JanusForConditionalGeneration,
        processor: JanusProcessor,
        dtype: str = "float32",
        train: Sequence[Part] = ("language_model",),
    ) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.image_token_id: int = model.config.image_token_id
        self.num_image_tokens: int = model.config.vision_config.num_image_tokens
        self.prompts = ChatPrompts(processor, self.num_image_tokens)
        self.num_drawing_tokens: int = model.model.vqmodel.quantize.quant_state_dims[0] ** 2
        self._train = () if lora.attached(model) else tuple(train)
        self._decoder: Decoder | None = None
        parts.prepare(model, self._train, self.dtype)
        self.cache_bytes = cache_room(sum(parameter.numel() for parameter in self.trainable()))
        install(model.model.language_model)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        dtype: str = "float32",
        attention: str = "sdpa",
        train: Sequence[Part] = ("language_model",),
        adapters: Lora | None = None,
        resume: bool = False,
    ) -> JanusPolicy:
        """See UnifiedPolicy.load."""
        model, processor = loading.read(path, attention)
        base: str | None = str(path)
        if lora.attached(model) and not resume:
            lora.fold(model)
            base = None  # what is folded is saved nowhere
        if adapters and not lora.attached(model):
            lora.attach(model, adapters, base)
        return cls(model, processor, dtype, train)

    @classmethod
    def count(
        cls, path: str | Path, *, train: Sequence[Part] = ("language_model",), adapters: Lora | None = None
    ) -> Count:
        """See UnifiedPolicy.count."""
        config = loading.read_config(path)
        with torch.device("meta"):
            model = JanusForConditionalGeneration(config)
            layers = model.model.language_model.layers
            heads = (model.lm_head, model.model.generation_head)
            copied = sum(p.numel() for part in (layers, *heads) for p in part.parameters())
            if adapters:
                lora.attach(model, adapters, None)
        parts.prepare(model, () if adapters else train, torch.float32)
        learn = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return Count(learn, sum(p.numel() for p in model.parameters()) - learn, copied)

    def weights(self) -> dict[str, Tensor]:
        """See UnifiedPolicy.weights."""
        whole = dict(self.model.state_dict())
        if not lora.attached(self.model) or lora.carries_base(self.model):
            return whole
        return {name: value for name, value in whole.items() if lora.is_adapter(name)}

    def save(self, path: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """See UnifiedPolicy.save."""
        weights = self.weights() if weights is None else dict(weights)
        self.model.save_pretrained(path, state_dict=weights)
        if lora.carries_base(self.model):
            own = {name: value.contiguous() for name, value in lora.base_weights(weights).items()}
            save_file(own, path / "model.safetensors", {"format": "pt"})
            self.model.config.save_pretrained(path)
        self.processor.save_pretrained(path)

    def learn(self, tasks: Sequence[Task]) -> None:
        """See UnifiedPolicy.learn."""
        parts.learn(self.model, self._train, tasks)

    def trainable(self) -> list[nn.Parameter]:
        """See UnifiedPolicy.trainable."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def checkpoint_layers(self) -> None:
        """See UnifiedPolicy.checkpoint_layers."""
        checkpoint_layers(self.model.model.language_model, self.dtype)

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

        As many prompts go at once as the memory for keys and values has room for.
        """
        limit = self.num_drawing_tokens if task == "t2i" else sampling.max_new_tokens
        self._check_length(ids, limit)
        group = len(keys) // len(ids)
        halves = 2 if task == "t2i" and sampling.cfg_weight != 1 else 1
        each = halves * cache_bytes(self.model.config.text_config, self.dtype, ids.shape[1], group, limit)
        chunks = -(-len(ids) // max(1, self.cache_bytes // each))
        size = -(-len(ids) // chunks)  # prompts at once
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
        plain = torch.autocast(self.device.type, enabled=False)  # the decoder casts by itself
        with self._inference():
            decoder = self._fresh_decoder()
            prompts = decoder.embed(ids)
            if task == "mm2t":
                assert pixels is not None
                prompts = self._place(prompts, ids, self._see(pixels))
                eos, pad = self.tokenizer.eos_token_id, self.tokenizer.pad_token_id
                with plain:
                    return write(decoder, prompts, mask, sampling, keys, eos, pad)
            unconditional = decoder.embed(self.prompts.unconditional(ids)) if sampling.cfg_weight != 1 else None
            vocabulary = torch.arange(self.model.config.vq_config.num_embeddings, device=self.device)
            embeddings = self.model.prepare_embeddings_for_image_generation(vocabulary)
            length = self.num_drawing_tokens
            with plain:
                tokens, logps = draw(decoder, prompts, mask, embeddings, sampling, keys, length, unconditional)
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

        The state after a token predicts the next one, that of the prompt's last token the first: the rows fed are the
        prompt, once for its group, and all completion tokens but the last.
        """
        packing = lay_out(rollout.prompt_mask[:: rollout.sampling.group_size], rollout.completion_mask)
        ids = rollout.prompt_ids[:: rollout.sampling.group_size]
        with self._autocast():
            if rollout.task == "t2i":
                return self._score_drawings(rollout, packing, ids)
            assert rollout.pixel_values is not None
            prompts = self._place(self._embed(ids), ids, self._see(rollout.pixel_values))
            states = self._states(packing, prompts, self._embed(rollout.completion_ids[:, :-1]))
            return self._score(rollout, packing, self.model.lm_head, states, self.model.config.text_config.vocab_size)

    def _score_drawings(self, rollout: Rollout, packing: Packing, ids: Tensor) -> Scored:
        """With guidance in the scoring, states of both halves are side by side until the head mixes their logits."""
        sampling, head = rollout.sampling, self.model.model.generation_head
        vocab_size = self.model.config.vq_config.num_embeddings
        fed = self.model.prepare_embeddings_for_image_generation(rollout.completion_ids[:, :-1])
        states = self._states(packing, self._embed(ids), fed)
        if sampling.cfg_weight == 1 or sampling.scoring == "conditional":
            return self._score(rollout, packing, head, states, vocab_size)
        detached = sampling.scoring == "guided-detached"
        with torch.set_grad_enabled(torch.is_grad_enabled() and not detached):
            both = [states, self._states(packing, self._embed(self.prompts.unconditional(ids)), fed)]
        mixed = Mixed(head, sampling.cfg_weight, detached=detached)
        return self._score(rollout, packing, mixed, torch.cat(both, -1), 2 * vocab_size)

    def _states(self, packing: Packing, prompts: Tensor, fed: Tensor) -> Tensor:
        """The hidden states [R, D] that predict the written tokens."""
        return packing.predicting(run(self.model.model.language_model, packing.pack(prompts, fed), packing))

    def _score(self, rollout: Rollout, packing: Packing, head: nn.Module, states: Tensor, vocab_size: int) -> Scored:
        temperature = rollout.sampling.temperature or 1.0
        found = token_logps(head, states, packing.chosen(rollout.completion_ids), temperature, vocab_size)
        return Scored(*map(packing.spread, found))

    def embed(self, images: Sequence[Image.Image], prompts: Sequence[str]) -> Embedded:
        """See UnifiedPolicy.embed."""
        ids, mask, spans = (tensor.to(self.device) for tensor in self.prompts.caption(prompts))
        with self._inference():
            pixels = self._pixels(images)
            embeds = self._place(self._embed(ids), ids, self._see(pixels))
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

    def decode_images(self, tokens: Tensor) -> list[Image.Image]:
        """VQ tokens [N, L] to N RGB images."""
        return images.decode(self.model.model.vqmodel, tokens, self.model.config.vision_config.image_size)

    def encode_images(self, pictures: Sequence[Image.Image]) -> Tensor:
        """N images to VQ tokens [N, L]."""
        size = self.model.config.vision_config.image_size
        return images.encode(self.model.model.vqmodel, pictures, size, self._pixels)

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

    def _embed(self, ids: Tensor) -> Tensor:
        """Text embeddings, in float32 as the residual stream is."""
        return self.model.get_input_embeddings()(ids)

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

    def __getstate__(self) -> dict[str, Any]:
        """Copies make a sampler of their own."""
        return {**super().__getstate__(), "_decoder": None}

    def _fresh_decoder(self) -> Decoder:
        if self._decoder is None or self._decoder.device != self.device:
            heads: dict[Task, nn.Module] = {"t2i": self.model.model.generation_head, "mm2t": self.model.lm_head}
            self._decoder = Decoder(self.model.model.language_model, heads, self.dtype)
        self._decoder.refresh()
        return self._decoder

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """eval() without gradients: training mode with checkpointing silently corrupts generation."""
        training = any(module.training for module in self.modules())  # switching costs as much as some tokens
        if training:
            self.eval()
        try:
            with torch.no_grad(), self._autocast():
                yield
        finally:
            if training:
                self.train()
