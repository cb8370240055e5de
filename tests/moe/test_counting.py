import pytest
from tiny import tiny_model

from unimoe.moe.counting import count_parameters


def test_a_dense_model_is_all_active() -> None:
    model = tiny_model()
    counts = count_parameters(model)
    assert counts["active"] == counts["total"] == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(("experts", "top_k", "nulls"), [(4, 1, 0), (4, 2, 1), (3, 3, 0), (2, 3, 2)])
def test_only_the_experts_that_a_token_is_not_sent_to_are_idle(experts: int, top_k: int, nulls: int) -> None:
    model = tiny_model(num_experts=experts, num_experts_per_tok=top_k, num_null_experts=nulls)
    text = model.config.text_config
    expert = 3 * text.hidden_size * text.moe_intermediate_size
    counts = count_parameters(model)
    assert counts["total"] == sum(parameter.numel() for parameter in model.parameters())
    assert counts["total"] - counts["active"] == text.num_hidden_layers * expert * max(experts - top_k, 0)


def test_one_expert_of_the_dense_width_differs_from_dense_by_the_router_alone() -> None:
    dense, sparse = tiny_model(), tiny_model(num_experts=4, num_experts_per_tok=1)
    routers = sum(parameter.numel() for name, parameter in sparse.named_parameters() if "router" in name)
    assert count_parameters(sparse)["active"] - count_parameters(dense)["active"] == routers


def test_tied_parameters_count_once() -> None:
    model = tiny_model()
    model.lm_head.weight = model.get_input_embeddings().weight
    text = model.config.text_config
    saved = text.vocab_size * text.hidden_size
    assert count_parameters(model)["total"] == count_parameters(tiny_model())["total"] - saved
