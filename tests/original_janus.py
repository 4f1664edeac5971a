"""A Janus as DeepSeek names and computes it, written from its published description for tests; sizes are free.

SigLIP has timm's fused qkv and pooling head, the VQ model its blocks in lists, the projectors a Sequential. The
language model is transformers' Llama, as in the original.
"""

import json
from types import SimpleNamespace

import torch
from torch import nn
from torch.nn.functional import gelu, interpolate, normalize, pad, scaled_dot_product_attention, silu

from corl_cli.world.tiny import build_tokenizer

WIDTH, HIDDEN, HEADS, SIDE, PATCH = 32, 48, 4, 16, 8
CODES, CODE, CH, MULTIPLES, BLOCKS, LATENT = 24, 8, 32, (1, 2), 1, 32


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        return self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, WIDTH))


class Mlp(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x):
        return self.fc2(gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(2))
        self.attn, self.mlp = Attention(), Mlp()

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Pool(nn.Module):
    """It is saved, and never evaluated."""

    def __init__(self):
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.q, self.kv, self.proj = (nn.Linear(WIDTH, out) for out in (WIDTH, 2 * WIDTH, WIDTH))
        self.norm, self.mlp = nn.LayerNorm(WIDTH), Mlp()


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // PATCH) ** 2, WIDTH))
        self.blocks = nn.Sequential(*(Block() for _ in range(2)))
        self.norm, self.attn_pool = nn.LayerNorm(WIDTH, eps=1e-6), Pool()

    def forward(self, pixels):
        x = self.patch_embed.proj(pixels).flatten(2).transpose(1, 2) + self.pos_embed
        return self.norm(self.blocks(x))


class Projector(nn.Module):
    def __init__(self, into):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(into, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, HIDDEN))

    def forward(self, x):
        return self.layers(x)


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.output_mlp_projector, self.vision_head = nn.Linear(HIDDEN, HIDDEN), nn.Linear(HIDDEN, CODES)

    def forward(self, x):
        return self.vision_head(gelu(self.output_mlp_projector(x)))


def group_norm(channels):
    return nn.GroupNorm(32, channels, eps=1e-6)


class Residual(nn.Module):
    def __init__(self, into, out):
        super().__init__()
        self.norm1, self.conv1 = group_norm(into), nn.Conv2d(into, out, 3, padding=1)
        self.norm2, self.conv2 = group_norm(out), nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(into, out, 1) if into != out else None

    def forward(self, x):
        changed = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return changed + (self.nin_shortcut(x) if self.nin_shortcut else x)


class PixelAttention(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.norm = group_norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x):
        q, k, v = (layer(self.norm(x)).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return x + self.proj_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class Coder(nn.Module):
    """The encoder, or the decoder, of the VQ model."""

    def __init__(self, *, decodes):
        super().__init__()
        self.decodes, top = decodes, CH * MULTIPLES[-1]
        channels, last = (top, 3) if decodes else (CH, LATENT)
        self.conv_in = nn.Conv2d(LATENT if decodes else 3, channels, 3, padding=1)
        self.conv_blocks = nn.ModuleList()
        levels = range(len(MULTIPLES))
        for level in reversed(levels) if decodes else levels:
            block = nn.Module()
            block.res, block.attn = nn.ModuleList(), nn.ModuleList()
            for _ in range(BLOCKS + decodes):
                block.res.append(Residual(channels, CH * MULTIPLES[level]))
                channels = CH * MULTIPLES[level]
                if level == levels[-1]:
                    block.attn.append(PixelAttention(channels))
            resized = nn.Module()
            resized.conv = nn.Conv2d(channels, channels, 3, stride=2 - decodes, padding=int(decodes))
            if level != (0 if decodes else levels[-1]):
                setattr(block, "upsample" if decodes else "downsample", resized)
            self.conv_blocks.append(block)
        self.mid = nn.ModuleList([Residual(top, top), PixelAttention(top), Residual(top, top)])
        self.norm_out, self.conv_out = group_norm(channels), nn.Conv2d(channels, last, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        if self.decodes:
            x = nn.Sequential(*self.mid)(x)
        for block in self.conv_blocks:
            for number, residual in enumerate(block.res):
                x = residual(x)
                x = block.attn[number](x) if len(block.attn) else x
            if hasattr(block, "upsample"):
                x = block.upsample.conv(interpolate(x, scale_factor=2.0))
            if hasattr(block, "downsample"):
                x = block.downsample.conv(pad(x, (0, 1, 0, 1)))
        if not self.decodes:
            x = nn.Sequential(*self.mid)(x)
        return self.conv_out(silu(self.norm_out(x)))


class Quantizer(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CODES, CODE)
        self.register_buffer("codebook_used", torch.rand(65536))


class Drawer(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.quantize = Coder(decodes=False), Coder(decodes=True), Quantizer()
        self.quant_conv, self.post_quant_conv = nn.Conv2d(LATENT, CODE, 1), nn.Conv2d(CODE, LATENT, 1)

    def encode(self, pixels):
        return self.quant_conv(self.encoder(pixels))

    def decode(self, tokens):
        side = int(tokens.shape[1] ** 0.5)
        codes = normalize(self.quantize.embedding(tokens), dim=-1).transpose(1, 2)
        return self.decoder(self.post_quant_conv(codes.unflatten(2, (side, side))))


class Original(nn.Module):
    """All of it, with random weights that are lively enough to tell one from another."""

    def __init__(self):
        from transformers import LlamaConfig, LlamaForCausalLM

        super().__init__()
        self.vision_model = nn.Module()
        self.vision_model.vision_tower = Tower()
        self.aligner, self.gen_aligner, self.gen_head = Projector(WIDTH), Projector(CODE), Head()
        self.gen_vision_model, self.gen_embed = Drawer(), nn.Embedding(CODES, CODE)
        self.language_model = LlamaForCausalLM(LlamaConfig(**LANGUAGE))
        for name, parameter in self.named_parameters():
            centre = 1.0 if parameter.dim() == 1 and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, centre, 0.15)

    def understand(self, ids, pixels, image_token):
        states = self.language_model.get_input_embeddings()(ids)
        states[ids == image_token] = self.aligner(self.vision_model.vision_tower(pixels)).flatten(0, 1)
        return self.language_model(inputs_embeds=states).logits

    def draw(self, ids, tokens):
        """Logits of image tokens [B, N] behind a prompt: those of each token under all before it."""
        words = self.language_model.get_input_embeddings()(ids)
        states = torch.cat([words, self.gen_aligner(self.gen_embed(tokens[:, :-1]))], 1)
        hidden = self.language_model.model(inputs_embeds=states).last_hidden_state
        return self.gen_head(hidden[:, ids.shape[1] - 1 :])


LANGUAGE = {
    "vocab_size": len(build_tokenizer()),
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rope_theta": 5000.0,
}


def config():
    """config.json as DeepSeek's, with corl's names for the sizes that DeepSeek's has no names for."""

    def section(name, cls, **params):
        return {f"{name}_config": {"cls": cls, "model_type": name, "params": params}}

    def projector(name, into):
        return section(name, "MlpProjector", depth=2, input_dim=into, n_embed=HIDDEN, projector_type="mlp_gelu")

    sizes = SimpleNamespace(
        siglip={"width": WIDTH, "layers": 2, "heads": HEADS, "patch_size": PATCH, "mlp_ratio": 4},
        vq={"ch": CH, "ch_mult": list(MULTIPLES), "num_res_blocks": BLOCKS, "z_channels": LATENT},
    )
    tower = {"image_size": SIDE, "model_name": "siglip_of_corl", "select_feature": "same", "select_layer": -1}
    return {
        "architectures": ["MultiModalityCausalLM"],
        "model_type": "multi_modality",
        "torch_dtype": "float32",
        "transformers_version": "4.33.1",
        "language_config": {"model_type": "llama", "_attn_implementation": "flash_attention_2", **LANGUAGE},
        **section("vision", "CLIPVisionTower", **tower, **sizes.siglip),
        **projector("aligner", WIDTH),
        **section("gen_vision", "VQ-of-corl", image_token_size=CODES, n_embed=CODE, **sizes.vq),
        **projector("gen_aligner", CODE),
        **section("gen_head", "vision_head", image_token_embed=HIDDEN, image_token_size=CODES, n_embed=HIDDEN),
    }


def save_files(folder):
    """Everything but the weights; the tokenizer's file does not add the begin-of-sequence token, its class does."""
    tokenizer = json.loads(build_tokenizer().backend_tokenizer.to_str()) | {"post_processor": None}
    settings = {"add_bos_token": True, "model_max_length": 64, "tokenizer_class": "LlamaTokenizerFast"}
    for name, token in (("bos", "<|begin_of_sentence|>"), ("eos", "<|end_of_sentence|>"), ("pad", "<|pad|>")):
        settings[f"{name}_token"] = {"__type": "AddedToken", "content": token, "normalized": True}
    half = [0.5, 0.5, 0.5]
    images = {"image_size": SIDE, "min_size": 14, "image_mean": half, "image_std": half, "do_normalize": True}
    tags = {"image_tag": "<image_placeholder>", "num_image_tokens": (SIDE // PATCH) ** 2, "sft_format": "deepseek"}
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in (
        ("config", config()),
        ("tokenizer", tokenizer),
        ("tokenizer_config", settings),
        ("preprocessor_config", images),
        ("processor_config", tags),
    ):
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder
