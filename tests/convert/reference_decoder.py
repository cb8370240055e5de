"""The decoder of Uni-MoE v1 written slowly from its papers: plain torch, one token's experts at a time, float32."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu


def logits(weights: dict[str, Tensor], config: dict[str, Any], ids: list[int]) -> Tensor:
    """Logits (S, V) of a text, with weights under the names of the released base, LoRA merged."""
    states = weights["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        own = {
            name.removeprefix(start): value
            for name, value in weights.items()
            if name.startswith(start := f"model.layers.{layer}.")
        }
        states = states + attention(normalise(states, own["input_layernorm.weight"]), own, config)
        normed = normalise(states, own["post_attention_layernorm.weight"])
        states = states + torch.stack([feed_forward(token, own) for token in normed])
    return normalise(states, weights["model.norm.weight"]) @ weights["lm_head.weight"].T


def normalise(states: Tensor, weight: Tensor) -> Tensor:
    return states / (states.pow(2).mean(dim=-1, keepdim=True) + 1e-5).sqrt() * weight


def attention(states: Tensor, own: dict[str, Tensor], config: dict[str, Any]) -> Tensor:
    heads = config["num_attention_heads"]
    q, k, v = (
        (states @ own[f"self_attn.{name}_proj.weight"].T).unflatten(-1, (heads, -1)).transpose(0, 1) for name in "qkv"
    )
    q, k = rotate(q), rotate(k)
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
    seen = torch.ones(scores.shape[1:]).tril().bool()
    mixed = scores.masked_fill(~seen, -torch.inf).softmax(dim=-1) @ v
    return mixed.transpose(0, 1).flatten(1) @ own["self_attn.o_proj.weight"].T


def rotate(states: Tensor) -> Tensor:
    """Turn pairs (i, i + half) of each head by position / 10000^(2i / width)."""
    half = states.shape[-1] // 2
    angles = torch.arange(states.shape[1])[:, None] * 10_000.0 ** -(torch.arange(half) / half)
    first, second = states[..., :half], states[..., half:]
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def feed_forward(token: Tensor, own: dict[str, Tensor]) -> Tensor:
    router = own.get("mlp.gate.weight")
    if router is None:
        return gated(token, own, "mlp.")
    scores = router @ token
    chosen = sorted(range(len(scores)), key=lambda expert: -scores[expert])[:2]
    shares = torch.stack([scores[expert] for expert in chosen]).exp()
    outputs = [gated(token, own, f"mlp.experts.{expert}.") for expert in chosen]
    return sum(share / shares.sum() * output for share, output in zip(shares, outputs, strict=True))  # type: ignore[return-value]


def gated(token: Tensor, own: dict[str, Tensor], name: str) -> Tensor:
    gate, up, down = (own[f"{name}{part}_proj.weight"] for part in ("gate", "up", "down"))
    return down @ (silu(gate @ token) * (up @ token))
