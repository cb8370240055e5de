"""The language models of Uni-MoE v1, 8e and 2.0 in evaluation, slowly: one token, one head and one expert at a time.

It is written from a description of the code of HITsz-TMG/Uni-MoE (v1, 8e) and of Uni-MoE-2.0, shares no line with
`unimoe` and takes weights under the names of the released files. As there, norms and the tables of angles are float32,
whatever the weights are. Left out, since it would not be repeatable or is off: noise on 8e's second expert, 2.0's drop
of tokens. B batch, S sequence, D hidden size.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
BOUNDS = {torch.float32: 1e-5, torch.float64: 1e-7}
"""How far logits may be from those of the slow model."""


@dataclass(frozen=True)
class Language:
    """What a release's configuration says of its language model.

    Args:
        family: `v1`: `mlp.gate` and `mlp.experts`, softmax over the chosen logits. `8e`: softmax over all,
            renormalised. `2.0`: routed, null and shared experts behind one router.
        sections: Frequencies that turn by time, row and column. None: plain positions.
        tie: 2.0's `router_jitter_noise`, half the relative gap of a near tie.
        near_ties: False: the chosen experts' renormalised probabilities, which is not what 2.0 computes.
        floor: What is added to the sum of the weights of the chosen.
        chosen: Experts of a token, of v1 and 8e.
        renormalises: False: their shares among all experts, which is not what v1 and 8e compute.
    """

    family: str
    layers: int
    heads: int
    key_value_heads: int
    experts: int
    sparse: tuple[int, ...]
    eps: float
    theta: float
    nulls: int = 0
    shared: int = 0
    sections: tuple[int, int, int] | None = None
    top_p: float = 0.7
    tie: float = 0.01
    near_ties: bool = True
    floor: float = 1e-6
    chosen: int = 2
    renormalises: bool = True

    def logits(self, weights: Weights, ids: Tensor, positions: Tensor, padding: list[int]) -> Tensor:
        """Logits (B, S, V) of ids (B, S) at positions (B, S) or (3, B, S); each row begins with some padding."""
        axes = positions if positions.dim() == 3 else positions.expand(3, *positions.shape)
        words = weights["model.embed_tokens.weight"]
        rows = [
            nn.functional.pad(self.row(weights, words[ids[row, skipped:]], axes[:, row, skipped:]), (0, 0, skipped, 0))
            for row, skipped in enumerate(padding)
        ]
        return torch.stack(rows)

    def row(self, weights: Weights, states: Tensor, axes: Tensor) -> Tensor:
        """Logits (S, V) of the embeddings (S, D) of one row without padding, at positions (3, S)."""
        for layer in range(self.layers):
            own = {
                name.removeprefix(f"model.layers.{layer}."): weight
                for name, weight in weights.items()
                if name.startswith(f"model.layers.{layer}.")
            }
            states = states + self.attention(own, norm(states, own["input_layernorm.weight"], self.eps), axes)
            normed = norm(states, own["post_attention_layernorm.weight"], self.eps)
            change = [self.feed_forward(own, layer, token) for token in normed]
            states = states + torch.stack(change)
        return norm(states, weights["model.norm.weight"], self.eps) @ weights["lm_head.weight"].T

    def attention(self, own: Weights, states: Tensor, axes: Tensor) -> Tensor:
        """Causal attention (S, D) of one row; neighbouring heads share keys and values."""
        query, key, value = (
            linear(states, own[f"self_attn.{name}_proj.weight"], own.get(f"self_attn.{name}_proj.bias"))
            for name in "qkv"
        )
        size = query.shape[-1] // self.heads
        outputs = []
        for head in range(self.heads):
            shared = head // (self.heads // self.key_value_heads)
            own_query = self.turn(query[:, head * size : (head + 1) * size], axes)
            own_key = self.turn(key[:, shared * size : (shared + 1) * size], axes)
            own_value = value[:, shared * size : (shared + 1) * size]
            rows = []
            for position in range(len(states)):
                scores = own_key[: position + 1] @ own_query[position] / math.sqrt(size)
                rows.append(torch.softmax(scores, dim=0) @ own_value[: position + 1])
            outputs.append(torch.stack(rows))
        return torch.cat(outputs, dim=-1) @ own["self_attn.o_proj.weight"].T

    def turn(self, states: Tensor, axes: Tensor) -> Tensor:
        """Turn the pairs (i, i + half) of a head's states (S, size) by the position on the axis of their section."""
        half = states.shape[-1] // 2
        turned = torch.empty_like(states)
        steps = torch.arange(0, 2 * half, 2, dtype=torch.float32) / (2 * half)
        for pair, frequency in enumerate(1.0 / self.theta**steps):
            axis = 0 if self.sections is None else [a for a in range(3) for _ in range(self.sections[a])][pair]
            angle = axes[axis].float() * frequency
            cos, sin = angle.cos().to(states.dtype), angle.sin().to(states.dtype)
            first, second = states[:, pair], states[:, pair + half]
            turned[:, pair] = first * cos - second * sin
            turned[:, pair + half] = second * cos + first * sin
        return turned

    def feed_forward(self, own: Weights, layer: int, token: Tensor) -> Tensor:
        """What the feed-forward of a layer makes of one normed token (D,)."""
        if layer not in self.sparse:
            return gated(own, "mlp", token)
        if self.family == "2.0":
            return self.dynamic(own, token)
        is_v1 = self.family == "v1"
        logits = own["mlp.gate.weight" if is_v1 else "mlp.deepspeed_moe.gate.wg.weight"] @ token
        chosen = sorted(range(self.experts), key=lambda expert: -float(logits[expert]))[: self.chosen]
        if is_v1 and self.renormalises:
            shares = torch.softmax(logits[chosen], dim=0)
        else:
            shares = torch.softmax(logits, dim=0)[chosen]
            shares = shares / shares.sum() if self.renormalises else shares
        folder = "mlp.experts" if is_v1 else "mlp.deepspeed_moe.experts.deepspeed_experts"
        terms = [share * gated(own, f"{folder}.{expert}", token) for expert, share in zip(chosen, shares, strict=True)]
        return torch.stack(terms).sum(dim=0)

    def dynamic(self, own: Weights, token: Tensor) -> Tensor:
        """2.0's layer: routed experts by top-p among nulls, and shared experts, weighed in one softmax."""
        logits = own["mlp.gate.weight"] @ token
        routed = logits[: self.experts + self.nulls]
        chosen = self.choose(routed)
        weights = self.near_tie_weights(routed, chosen) if self.near_ties else torch.softmax(routed, 0)[chosen]
        weights = weights / (weights.sum() + self.floor)
        shares = torch.softmax(torch.cat([routed[chosen], logits[self.experts + self.nulls :]]), dim=0)
        output = torch.zeros_like(token)
        for expert, weight in zip(chosen, weights * shares[: len(chosen)].sum(), strict=True):
            if expert < self.experts:  # what a null weighs is lost
                name = f"mlp.dynamic_real_moe.deepspeed_moe.experts.deepspeed_experts.{expert}"
                output = output + weight * gated(own, name, token)
        for expert, weight in enumerate(shares[len(chosen) :]):
            output = output + weight * gated(own, f"mlp.fixed_real_moe.{expert}", token)
        return output

    def choose(self, routed: Tensor) -> list[int]:
        """Largest logits, as many as it takes until their probabilities reach `top_p`."""
        probabilities = torch.softmax(routed, dim=0)
        order = sorted(range(len(routed)), key=lambda target: -float(routed[target]))
        mass, chosen = 0.0, []
        for target in order:
            chosen.append(target)
            mass += float(probabilities[target])
            if mass >= self.top_p:
                break
        return chosen

    def near_tie_weights(self, routed: Tensor, chosen: list[int]) -> Tensor:
        """Softmax of each choice over the targets left that come near it, itself among them; not renormalised."""
        left, weights = list(range(len(routed))), []
        for target in chosen:
            largest = routed[target]
            near = [
                other
                for other in left
                if other == target
                or float((largest - routed[other]) / max(largest.abs(), routed[other].abs())) <= 2 * self.tie
            ]
            weights.append(largest.exp() / routed[near].exp().sum())
            left.remove(target)
        return torch.stack(weights)


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of logits, of the largest one."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())


def norm(states: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS normalisation of states (S, D), in float32."""
    precise = states.float()
    precise = precise * torch.rsqrt(precise.pow(2).mean(dim=-1, keepdim=True) + eps)
    return weight * precise.to(states.dtype)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear map of states (S, D)."""
    mapped = states @ weight.T
    return mapped if bias is None else mapped + bias


def gated(own: Weights, name: str, token: Tensor) -> Tensor:
    """The feed-forward `name` of one token (D,): SiLU gate times up, and down."""
    gate, up, down = (own[f"{name}.{part}_proj.weight"] for part in ("gate", "up", "down"))
    inner = gate @ token
    return down @ (inner * torch.sigmoid(inner) * (up @ token))
