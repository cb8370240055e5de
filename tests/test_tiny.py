"""The tiny checkpoint that other programs test with."""

import torch
from safetensors.torch import load_file
from tiny_processor import EVERYTHING, process
from transformers import AutoModelForMultimodalLM, AutoProcessor

from unimoe.tiny import save_tiny_checkpoint


def test_a_tiny_checkpoint_loads_and_answers_a_chat_with_every_medium(tmp_path) -> None:
    folder = save_tiny_checkpoint(tmp_path)
    model, processor = (auto.from_pretrained(folder) for auto in (AutoModelForMultimodalLM, AutoProcessor))
    inputs = process(processor, EVERYTHING[:1], add_generation_prompt=True)
    answer = model.generate(**inputs, max_new_tokens=3, do_sample=False, eos_token_id=None)
    assert answer.shape[1] == inputs["input_ids"].shape[1] + 3
    assert sum(file.stat().st_size for file in folder.iterdir()) < 2_000_000


def test_the_seed_decides_the_weights_and_nothing_else(tmp_path) -> None:
    state = torch.get_rng_state()
    saved = [load_file(save_tiny_checkpoint(tmp_path / str(n), seed=n // 2) / "model.safetensors") for n in range(3)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(saved[0][name], saved[1][name]) for name in saved[0])
    assert any(not torch.equal(saved[0][name], saved[2][name]) for name in saved[0])


def test_the_language_model_can_be_chosen(tmp_path) -> None:
    folder = save_tiny_checkpoint(tmp_path, num_experts=2, num_null_experts=1, modality_routing="bias")
    config = AutoModelForMultimodalLM.from_pretrained(folder).config.text_config
    assert (config.num_experts, config.num_null_experts, config.modality_routing) == (2, 1, "bias")
