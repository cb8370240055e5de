"""Files of tensors that are written one by one are those of safetensors."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from unimoe.files.tensors import write_tensors

TENSORS = {
    "odd.half": torch.randn(3).bfloat16(),
    "a.router": torch.randn(4, 5),
    "turned": torch.randn(5, 4).T,
    "scalar": torch.tensor(2.5, dtype=torch.float64),
    "none": torch.ones(0, 7),
    "b.half": torch.randn(1, 3).bfloat16(),
}


def test_the_bytes_are_those_of_the_library_and_one_tensor_is_made_at_a_time(tmp_path: Path) -> None:
    made = []

    def value(name: str) -> torch.Tensor:
        made.append(name)
        return TENSORS[name]

    write_tensors(tmp_path / "ours", {name: tensor.to("meta") for name, tensor in TENSORS.items()}, value)
    whole = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(whole, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    assert sorted(made) == sorted(TENSORS) and load_file(tmp_path / "ours").keys() == TENSORS.keys()
