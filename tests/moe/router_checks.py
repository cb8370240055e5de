"""Claims about routers as functions that raise AssertionError: they hold for the routers, and fail for broken ones."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from moe.oracle import KEYS, Choice, Parameters, Token, route_batch
from torch import Tensor, nn

from unimoe import UniMoETextConfig
from unimoe.moe import RoutingContext, build_router

D, E, VOCABULARY = 16, 8, 30
MODES = ("shared", "bias", "separate", "isolated", "semi_isolated")
Route = Callable[[Tensor, RoutingContext], Any]

# Groups that keep pairs of experts (n_group=4) whole, and ragged ones, smaller than K for images and sound.
_EVEN = {
    "isolated": {"text": [0, 1, 2, 3], "image": [4, 5, 6, 7]},
    "semi_isolated": {"text": [0, 1], "image": [2, 3], "speech": [4, 5]},
}
_RAGGED = {
    "isolated": {"text": [0, 2, 4, 6], "image": [1, 3], "audio": [7], "speech": [5]},
    "semi_isolated": {"text": [0, 3], "image": [2], "audio": [5, 6, 7]},
}


def make_config(mode: str = "shared", **fields: Any) -> UniMoETextConfig:
    """A configuration of E experts; `mode` is the modality routing, with groups that suit the other fields."""
    groups = (_EVEN if fields.get("n_group", 1) > 1 else _RAGGED).get(mode)
    return UniMoETextConfig(
        **{
            "vocab_size": VOCABULARY,
            "hidden_size": D,
            "intermediate_size": 12,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "num_experts": E,
            "modality_routing": mode,
            "expert_groups": groups,
            "expert_rank": 4,
            "expert_latent_size": 20,
            **fields,
        }
    )


@torch.no_grad()
def randomise(module: nn.Module, seed: int = 0, scale: float = 0.5) -> nn.Module:
    """Give every parameter and every balance bias values that matter; the module in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.normal_(0.0, scale, generator=generator)
    for name, buffer in module.named_buffers():
        if name.endswith("balance_bias"):
            buffer.normal_(0.0, 0.2, generator=generator)
        if name.endswith("table"):
            buffer.random_(0, 1000, generator=generator)
    return module.eval()


def make_router(config: UniMoETextConfig, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The router of this configuration with random parameters; the balance bias stays float32."""
    router = build_router(config)
    for parameter in router.parameters():
        parameter.data = parameter.data.to(dtype)
    return randomise(router)


def make_tokens(count: int = 24, seed: int = 1, padded: int = 0) -> tuple[Tensor, RoutingContext]:
    """Random float64 tokens of all modalities; the last ones are padding."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.arange(count) < count - padded
    return torch.randn(count, D, generator=generator, dtype=torch.float64), RoutingContext(
        modality_ids=torch.randint(0, len(KEYS), (count,), generator=generator),
        token_ids=torch.randint(0, VOCABULARY, (count,), generator=generator),
        attention_mask=real if padded else None,
    )


def arrays(router: nn.Module) -> Parameters:
    """Parameters and buffers of a router by name, for the oracle."""
    tensors = {**dict(router.named_parameters()), **dict(router.named_buffers())}
    return {name: np.asarray(tensor.detach().double()) for name, tensor in tensors.items()}


def oracle_choices(config: Any, parameters: Parameters, hidden: Tensor, context: RoutingContext) -> list[Choice]:
    """What the oracle does with these tokens."""
    assert context.token_ids is not None
    real = [True] * len(hidden) if context.attention_mask is None else context.attention_mask.tolist()
    rows = zip(hidden.detach(), context.modality_ids.tolist(), context.token_ids.tolist(), real, strict=True)
    tokens = [Token(np.asarray(row.double()), *rest) for row, *rest in rows]
    return route_batch(tokens, parameters, config)


def routed_weights(output: Any, token: int) -> dict[int, float]:
    """Weight of each expert that computes for a token. No expert may stand twice, and the index E has no weight."""
    pairs = zip(output.top_k_index[token].tolist(), output.top_k_weights[token].tolist(), strict=True)
    real = [(expert, weight) for expert, weight in pairs if expert < E]
    assert len(dict(real)) == len(real), "a token chose an expert twice"
    assert not bool(output.top_k_weights[token][output.top_k_index[token] == E].any()), "the index E has a weight"
    return dict(real)


def check_parity(
    route: Route,
    config: Any,
    parameters: Parameters,
    *,
    tokens: tuple[Tensor, RoutingContext] | None = None,
    tolerance: float = 1e-12,
) -> None:
    """Every real token goes where the oracle sends it, with the oracle's weights."""
    hidden, context = tokens or make_tokens()
    with torch.no_grad():
        output = route(hidden, context)
    choices = oracle_choices(config, parameters, hidden, context)
    for t, choice in enumerate(choices):
        if context.attention_mask is not None and not context.attention_mask[t]:
            continue
        chosen = output.record.expert_mask[t].nonzero().flatten().tolist()
        assert chosen == sorted(choice.chosen), f"token {t} chose {chosen}, the oracle {sorted(choice.chosen)}"
        weights = routed_weights(output, t)
        assert weights == pytest.approx(choice.weights, abs=tolerance), f"weights of token {t}"
        _check_recorded(output, t, choice, config)
        if choice.shared is not None:
            assert output.shared_weights[t].tolist() == pytest.approx(choice.shared, abs=tolerance)


def _check_recorded(output: Any, token: int, choice: Choice, config: Any) -> None:
    """Logits, probabilities and gates, which are float32 by contract."""
    if choice.logits is not None:
        logits, expected = output.router_logits[token].tolist(), choice.logits
        assert logits == pytest.approx(expected, abs=1e-5), f"logits of token {token}"
        assert output.record.router_probs[token].tolist() == pytest.approx(choice.probabilities, abs=1e-6)
    gates = {target: gate for target, gate in enumerate(output.record.router_gates[token].tolist()) if gate}
    expected_gates = {target: gate for target, gate in {**choice.weights, **choice.nulls}.items() if gate}
    if config.capacity_factor is None:
        assert gates == pytest.approx(expected_gates, abs=1e-6), f"gates of token {token}"


def check_balance_bias_steers_choice_only(route: Route, router: nn.Module, tokens: tuple[Tensor, Any]) -> None:
    """Moving the bias of all targets alike changes nothing; where a token's experts stay, so do their weights."""
    hidden, context = tokens
    before = route(hidden, context)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        router.balance_bias += torch.randn(router.balance_bias.shape, generator=generator) * 0.3  # type: ignore
    after = route(hidden, context)
    same = (before.record.expert_mask == after.record.expert_mask).all(dim=-1)
    assert 0 < int(same.sum()) < len(same), "the bias has to move some tokens and leave others"
    for t in same.nonzero().flatten().tolist():
        assert routed_weights(before, t) == pytest.approx(routed_weights(after, t), abs=1e-12), "bias in the weights"


def check_top_p_is_minimal(route: Route, tokens: tuple[Tensor, RoutingContext], top_p: float) -> None:
    """No smaller set of targets holds a probability of `top_p`, by trying them all."""
    hidden, context = tokens
    output = route(hidden, context)
    targets = output.router_logits.shape[-1]
    probabilities = output.router_logits.detach().double().softmax(dim=-1)
    for t, p in enumerate(probabilities.tolist()):
        chosen = output.record.expert_mask[t].nonzero().flatten().tolist()
        assert sum(p[e] for e in chosen) >= top_p - 1e-12, f"token {t}: {chosen} hold less than {top_p}"
        smaller = itertools.combinations(range(targets), len(chosen) - 1)
        assert all(sum(p[e] for e in subset) < top_p for subset in smaller), f"token {t} needs fewer than {chosen}"


def check_nulls_add_nothing(moe: Callable[[Tensor], Tensor], hidden: Tensor) -> None:
    """Tokens which chose null experts alone have a routed output of exactly 0."""
    output = moe(hidden).detach()
    assert torch.equal(output, torch.zeros_like(output)), f"null experts give {float(output.abs().max()):.2e}"


def check_padding_takes_no_part(loss: Callable[[Tensor, Tensor], float], input_ids: Tensor) -> None:
    """A loss of (input_ids, attention_mask) (B, S) does not move with padding behind the tokens."""
    mask = torch.ones_like(input_ids)
    padded, padded_mask = (torch.cat([x, torch.zeros_like(x)], dim=-1) for x in (input_ids, mask))
    assert loss(padded, padded_mask) == pytest.approx(loss(input_ids, mask), abs=1e-5)
