"""transformers' own tensor, expert and pipeline parallelism in two processes on a CPU, against one process."""

from pathlib import Path

import launch
import pytest
import torch
from tiny import TEXT, randomise, tiny_inputs, tiny_model

from unimoe import UniMoEForCausalLM, UniMoETextConfig

pytestmark = pytest.mark.distributed
SPARSE = {"num_experts": 4, "shared_expert_intermediate_size": 8}
TWO_WIDTHS = {
    "num_experts": 4,
    "modality_routing": "isolated",
    "expert_groups": {"text": [0, 1], "image": [2, 3]},
    "expert_group_intermediate_sizes": {"image": 8},
}


def prepare(folder: Path, kind: str, **text) -> dict:
    """Save a model and inputs; return what one process answers."""
    if kind == "multimodal":
        model = tiny_model(**text)
        inputs = tiny_inputs(model.config)
    else:
        torch.manual_seed(0)
        model = UniMoEForCausalLM(UniMoETextConfig(**TEXT, **text)).eval()
        inputs = {"input_ids": torch.randint(3, 60, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    randomise(model)
    model.save_pretrained(folder / "model")
    torch.save(inputs, folder / "inputs.pt")
    output = model(**inputs, labels=inputs["input_ids"])
    output.loss.backward()
    gradient = next(p.grad for n, p in model.named_parameters() if n.endswith("router.weight"))
    tokens = model.generate(**inputs, do_sample=False, eos_token_id=None, max_new_tokens=4)
    return {"logits": output.logits, "tokens": tokens, "loss": output.loss, "router_gradient": gradient}


def run(folder: Path, kind: str, split: str) -> dict:
    launch.run(str(Path(__file__).with_name("parallel_worker.py")), str(folder), kind, split, processes=2)
    return torch.load(folder / "result.pt")


# "No expert" (nulls, another group) is an index that transformers' all-to-all does not know; its all-reduce does.
CASES = {
    "tensor": ("text", "tp", SPARSE),
    "tensor, with media": ("multimodal", "tp", {**SPARSE, "num_null_experts": 1}),
    "tensor, norms": ("text", "tp", {**SPARSE, "qk_norm": "projection"}),
    "expert": ("text", "all_to_all", SPARSE),
    "expert, nulls": ("text", "all_reduce", {**SPARSE, "num_null_experts": 2}),
    "expert, media": ("multimodal", "all_to_all", SPARSE),
    "expert, two widths": ("text", "all_reduce", TWO_WIDTHS),
    "pipeline": ("text", "pp", SPARSE),
}


@pytest.mark.parametrize("case", CASES)
def test_two_processes_answer_as_one_does(case, tmp_path) -> None:
    kind, split, text = CASES[case]
    expected = prepare(tmp_path, kind, **text)
    result = run(tmp_path, kind, split)
    for name, value in result.items():
        torch.testing.assert_close(value, expected[name].detach(), atol=1e-5, rtol=1e-4)
