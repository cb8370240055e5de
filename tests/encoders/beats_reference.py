"""BEATs written slowly from the equations of its papers: plain loops over float64 numbers, no code of unimoe.

BEATs (arXiv 2212.09058) section 3, WavLM (arXiv 2110.13900) section 3.1 for the gated bias, T5 (arXiv 1910.10683)
section 2.1 for its buckets, DeepNet (arXiv 2203.00555) figure 2 for the residual.
"""

import math
from typing import Any

import numpy as np


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def gelu(x: float) -> float:
    return x * 0.5 * (1 + math.erf(x / math.sqrt(2)))


def normalise(row: np.ndarray, gain: np.ndarray, shift: np.ndarray, eps: float) -> np.ndarray:
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    return np.array([(x - mean) / math.sqrt(variance + eps) * g + s for x, g, s in zip(row, gain, shift, strict=True)])


def linear(row: np.ndarray, weights: dict[str, np.ndarray], name: str) -> np.ndarray:
    matrix, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    return np.array([sum(w * x for w, x in zip(line, row, strict=True)) for line in matrix]) + bias


def bucket(query: int, key: int, num_buckets: int, max_distance: int) -> int:
    half = num_buckets // 2
    exact = half // 2
    start = half if key > query else 0
    distance = abs(key - query)
    if distance < exact:
        return start + distance
    steps = math.log(distance / exact) / math.log(max_distance / exact) * (half - exact)
    return start + min(half - 1, exact + math.floor(steps))


def patches(spectrogram: np.ndarray, weights: dict[str, np.ndarray], config: Any) -> list[np.ndarray]:
    """Non-overlapping patches, bands of one moment first, then the next moment."""
    size = config.patch_size
    kernel = weights["patch_embedding.weight"]
    found = []
    for top in range(0, spectrogram.shape[0] - size + 1, size):
        for left in range(0, spectrogram.shape[1], size):
            square = spectrogram[top : top + size, left : left + size]
            row = np.array([float((k[0] * square).sum()) for k in kernel])
            if config.conv_bias:
                row = row + weights["patch_embedding.bias"]
            row = normalise(row, weights["layer_norm.weight"], weights["layer_norm.bias"], config.layer_norm_eps)
            known = "post_extract_proj.weight" in weights
            found.append(linear(row, weights, "post_extract_proj") if known else row)
    return found


def add_positions(rows: list[np.ndarray], weights: dict[str, np.ndarray], config: Any) -> list[np.ndarray]:
    """Grouped convolution whose kernel is g * v / |v|, with one norm for each place in the kernel."""
    gain = weights["encoder.pos_conv.0.weight_g"]
    direction = weights["encoder.pos_conv.0.weight_v"]
    bias = weights["encoder.pos_conv.0.bias"]
    outputs, inputs, size = direction.shape
    norms = [math.sqrt(float((direction[:, :, place] ** 2).sum())) for place in range(size)]
    per_group = outputs // config.num_conv_pos_embedding_groups
    result = []
    for here in range(len(rows)):
        row = np.zeros(outputs)
        for channel in range(outputs):
            first = channel // per_group * inputs
            total = float(bias[channel])
            for place in range(size):
                there = here + place - size // 2
                if 0 <= there < len(rows):
                    kernel = gain[0, 0, place] * direction[channel, :, place] / norms[place]
                    total += float((kernel * rows[there][first : first + inputs]).sum())
            row[channel] = gelu(total)
        summed = rows[here] + row
        result.append(
            normalise(
                summed,
                weights["encoder.layer_norm.weight"],
                weights["encoder.layer_norm.bias"],
                config.layer_norm_eps,
            )
        )
    return result


def padding(real: int, samples: int, frames: int, length: int) -> list[bool]:
    """Which of `length` patches of a window are padding, where its first `real` samples are sound.

    As the published code has it: samples are dealt out to frames and frames to patches, evenly, in order, a rest is
    left over; what got padding alone is padding.
    """
    is_padding = [sample >= real for sample in range(samples)]
    for parts in (frames, length):
        share = len(is_padding) // parts
        is_padding = [all(is_padding[part * share : (part + 1) * share]) for part in range(parts)]
    return is_padding


def attend(
    rows: list[np.ndarray], weights: dict[str, np.ndarray], layer: str, config: Any, padded: list[bool]
) -> tuple[list[np.ndarray], np.ndarray]:
    """softmax(q k / sqrt(d) + r) v, r = d + update * d + (1 - update) * s * reset * d (WavLM); no key is padding."""
    heads, length = config.num_attention_heads, len(rows)
    width = config.hidden_size // heads
    queries, keys, values = (
        [linear(row, weights, f"{layer}.self_attn.{name}_proj") for row in rows] for name in ("q", "k", "v")
    )
    table = weights["encoder.layers.0.self_attn.relative_attention_bias.weight"]
    gate, offset = weights[f"{layer}.self_attn.grep_linear.weight"], weights[f"{layer}.self_attn.grep_linear.bias"]
    # The file keeps four vectors for each gate, whose sum is the paper's u (negated, as it holds 1 - update) and w.
    u, u_bias = -gate[:4].sum(0), -offset[:4].sum()
    w, w_bias = gate[4:].sum(0), offset[4:].sum()
    joined = [np.zeros(config.hidden_size) for _ in rows]
    probabilities = np.zeros((heads, length, length))
    for head in range(heads):
        part = slice(head * width, (head + 1) * width)
        scale = float(weights[f"{layer}.self_attn.grep_a"][0, head, 0, 0])
        for i in range(length):
            query = queries[i][part]
            update, reset = sigmoid(float(query @ u) + u_bias), sigmoid(float(query @ w) + w_bias)
            scores = []
            for j in range(length):
                d = float(table[bucket(i, j, config.num_buckets, config.max_bucket_distance), head])
                r = d + update * d + (1 - update) * scale * reset * d
                scores.append(float(query @ keys[j][part]) / math.sqrt(width) + r)
            best = max(score for score, out in zip(scores, padded, strict=True) if not out)
            exponents = [0.0 if out else math.exp(score - best) for score, out in zip(scores, padded, strict=True)]
            for j in range(length):
                probabilities[head, i, j] = exponents[j] / sum(exponents)
                joined[i][part] += probabilities[head, i, j] * values[j][part]
    return [linear(row, weights, f"{layer}.self_attn.out_proj") for row in joined], probabilities


def encode(
    spectrogram: np.ndarray, weights: dict[str, np.ndarray], config: Any, padded: list[bool] | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Hidden states (L, D) before the first and after every layer, and attention weights (H, L, L), of one window.

    Patches that are `padded` count as zeros for positions, and nothing attends to them.
    """
    scale = (2 * config.num_hidden_layers) ** 0.25
    rows = patches(spectrogram, weights, config)
    padded = padded or [False] * len(rows)
    rows = [row * 0 if out else row for row, out in zip(rows, padded, strict=True)]
    rows = add_positions(rows, weights, config)
    states, attentions = [np.stack(rows)], []
    for index in range(config.num_hidden_layers):
        layer = f"encoder.layers.{index}"
        attended, probabilities = attend(rows, weights, layer, config, padded)
        result = []
        for row, added in zip(rows, attended, strict=True):
            row = normalise(
                row * scale + added,
                weights[f"{layer}.self_attn_layer_norm.weight"],
                weights[f"{layer}.self_attn_layer_norm.bias"],
                config.layer_norm_eps,
            )
            inner = np.array([gelu(value) for value in linear(row, weights, f"{layer}.fc1")])
            result.append(
                normalise(
                    row * scale + linear(inner, weights, f"{layer}.fc2"),
                    weights[f"{layer}.final_layer_norm.weight"],
                    weights[f"{layer}.final_layer_norm.bias"],
                    config.layer_norm_eps,
                )
            )
        rows = result
        states.append(np.stack(rows))
        attentions.append(probabilities)
    return states, attentions
