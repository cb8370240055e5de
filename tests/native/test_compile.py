"""`torch.compile(fullgraph=True)`: the decode step with a static cache, and forward without and with media.

The backend `aot_eager` traces as the default one does and leaves out the minutes of C++ compilation. The fast tests
compile one model with it; the slow tests compile every case, with `inductor` itself too.
"""

from itertools import product

import pytest
import torch
from tiny import randomise, tiny_model
from transformers import CompileConfig, StaticCache

IMPLEMENTATIONS = ("grouped_mm", "batched_mm")
GREEDY = {"do_sample": False, "eos_token_id": None, "max_new_tokens": 4}
BACKENDS = ("aot_eager", "inductor")
FAST = ("aot_eager", "grouped_mm")
CASES = list(product(BACKENDS, IMPLEMENTATIONS))
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in CASES]
each_case = pytest.mark.parametrize(("backend", "compiled_kind"), SLOW, indirect=["compiled_kind"])


@pytest.fixture
def compiled_kind(request, sparse):
    torch._dynamo.reset()
    model = tiny_model(**sparse)
    randomise(model)
    model.set_experts_implementation({"text_config": request.param})
    assert model.model.language_model.config._experts_implementation == request.param
    return model


@pytest.mark.parametrize(
    ("backend", "compiled_kind"),
    [FAST, *(case for case in SLOW if case.values != FAST)],
    indirect=["compiled_kind"],
)
@torch.no_grad()
def test_the_decode_step_compiles_whole_and_equals_eager(compiled_kind, inputs, backend) -> None:
    model = compiled_kind
    compiled = torch.compile(model.forward, fullgraph=True, backend=backend)
    length = inputs["input_ids"].shape[1]
    steps = {}
    for name, forward in (("eager", model.forward), ("compiled", compiled)):
        cache = StaticCache(config=model.config.text_config, max_cache_len=length + 3)
        model(**inputs, cache=cache)
        logits = []
        for step, token in enumerate((11, 12, 13)):
            position = torch.tensor([[length + step]])
            logits.append(forward(input_ids=torch.tensor([[token]]), position_ids=position, cache=cache).logits)
        steps[name] = torch.cat(logits, dim=1)
    torch.testing.assert_close(steps["compiled"], steps["eager"], atol=1e-5, rtol=1e-4)


@each_case
def test_generation_with_a_static_cache_compiles_by_itself_and_gives_the_same_tokens(
    compiled_kind, inputs, backend
) -> None:
    """On a GPU `generate` compiles every static cache; `_compile_all_devices` asks for it on a CPU."""
    model = compiled_kind
    expected = model.generate(**inputs, **GREEDY)
    config = CompileConfig(fullgraph=True, backend=backend, mode="default" if backend == "inductor" else None)
    config._compile_all_devices = True
    static = {"cache_implementation": "static", "compile_config": config}
    assert torch.equal(model.generate(**inputs, **GREEDY, **static), expected)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert not torch._dynamo.utils.counters["graph_break"]


@each_case
@torch.no_grad()
def test_text_alone_compiles_whole(compiled_kind, backend) -> None:
    ids = torch.randint(3, 60, (2, 9))
    expected = compiled_kind(input_ids=ids).logits
    compiled = torch.compile(compiled_kind.forward, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(input_ids=ids).logits, expected, atol=1e-5, rtol=1e-4)


@each_case
@torch.no_grad()
def test_a_compiled_forward_without_its_media_says_what_to_do(compiled_kind, inputs, backend) -> None:
    compiled = torch.compile(compiled_kind.forward, fullgraph=True, backend=backend)
    given = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with pytest.raises(RuntimeError, match="Pass every feature that the processor returned"):
        compiled(**given)


@each_case
@torch.no_grad()
def test_a_forward_with_media_compiles_whole(compiled_kind, inputs, backend) -> None:
    """Through a ResNet, an AST and a Whisper encoder, too."""
    expected = compiled_kind(**inputs).logits
    compiled = torch.compile(compiled_kind.forward, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(**inputs).logits, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_step_of_text_compiles_with_the_same_gradients(sparse, backend) -> None:
    torch._dynamo.reset()
    ids = torch.randint(3, 60, (2, 9))
    gradients = []
    for compile_it in (False, True):
        model = tiny_model(**sparse)
        forward = torch.compile(model.forward, backend=backend) if compile_it else model.forward
        forward(input_ids=ids, labels=ids).loss.backward()
        gradients.append(model.model.language_model.layers[0].mlp.experts.gate_up_proj.grad)
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)
