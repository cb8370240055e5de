"""A model of real pretrained parts generates from pictures, speech and text: in a batch, alone, and compiled."""

from typing import Any

import pytest
import torch
from test_real_parts import PARTS
from tiny_processor import first, item, process, turn
from transformers import CompileConfig

from unimoe import UniMoEForConditionalGeneration, UniMoEProcessor
from unimoe.build import build_model
from unimoe.surgery import upcycle

pytestmark = pytest.mark.slow

ROWS = [
    [
        turn(
            item("image", first("image_kind", "food_*.png")),
            item("speech", first("spoken_word", "seven_flite-slt.flac")),
            "What is in the picture, and which word is spoken?",
        )
    ],
    [turn("Look:", item("image", first("image_kind", "animal_*.png")), "Which animal is this?")],
    [turn("What is the capital of France?"), turn("Paris.", role="assistant"), turn("And of Italy?")],
]
GREEDY: dict[str, Any] = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": False}


@pytest.fixture(scope="module", params=["plain", "omni"])
def parts(request: pytest.FixtureRequest) -> tuple[UniMoEForConditionalGeneration, UniMoEProcessor]:
    """Four experts from each feed-forward, made different so that it matters who is chosen."""
    media = {"position_type": request.param, "image_max_tiles": 4}
    options: dict[str, Any] = {**PARTS, "dtype": torch.float32, "media": media}
    dense, processor = build_model(**options)
    model, _ = upcycle(dense, num_experts=4, num_experts_per_tok=2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".experts." in name:
                parameter.mul_(1 + 0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval(), processor


def answers(parts: Any, rows: list[Any], **options: Any) -> list[list[int]]:
    model, processor = parts
    inputs = process(processor, rows, add_generation_prompt=True)
    return model.generate(**inputs, **{**GREEDY, **options})[:, inputs["input_ids"].shape[1] :].tolist()


def test_a_batch_of_three_mixtures_equals_three_single_runs(parts: Any) -> None:
    together = answers(parts, ROWS)
    print(parts[1].batch_decode(together))
    assert together == [answers(parts, [row])[0] for row in ROWS]


def test_compiled_decoding_with_a_static_cache_equals_eager_decoding(parts: Any) -> None:
    torch.compiler.reset()
    compiling = CompileConfig(fullgraph=True, dynamic=False)
    compiling._compile_all_devices = True  # otherwise transformers leaves the CPU uncompiled
    compiled = answers(parts, ROWS, cache_implementation="static", compile_config=compiling)
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] >= 1 and not counters["graph_break"]
    assert compiled == answers(parts, ROWS)
