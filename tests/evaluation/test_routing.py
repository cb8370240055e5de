import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from evaluation.routing import is_sparse, save_heat_map, summarise_routing
from unimoe import Modality


def counts() -> torch.Tensor:
    """Two layers, three experts and one null: text spreads evenly, images collapse, audio goes half to the null."""
    table = torch.zeros(2, len(Modality), 4, dtype=torch.long)
    table[:, Modality.TEXT, :3] = 10
    table[:, Modality.IMAGE, 1] = 8
    table[:, Modality.AUDIO, 0] = 5
    table[:, Modality.AUDIO, 3] = 5
    return table


def test_experts_used_is_the_exponential_of_the_entropy() -> None:
    summary = summarise_routing(counts(), num_experts=3, layers=[1, 3])["modalities"]
    assert summary["text"]["experts_used"] == pytest.approx([3.0, 3.0])
    assert summary["text"]["entropy"] == pytest.approx([math.log(3)] * 2)
    assert summary["image"]["mean_experts_used"] == pytest.approx(1.0)
    assert summary["text"]["counts"] == [[10, 10, 10, 0]] * 2


def test_null_experts_have_a_share_but_are_not_used() -> None:
    audio = summarise_routing(counts(), num_experts=3, layers=[1, 3])["modalities"]["audio"]
    assert audio["null_share"] == [0.5, 0.5]
    assert audio["experts_used"] == pytest.approx([1.0, 1.0])


def test_modalities_that_did_not_occur_are_left_out() -> None:
    assert list(summarise_routing(counts(), num_experts=3, layers=[1, 3])["modalities"]) == ["text", "image", "audio"]


def test_the_heat_map_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    save_heat_map(summarise_routing(counts(), num_experts=3, layers=[1, 3]), tmp_path / "routing.png")
    assert (tmp_path / "routing.png").read_bytes().startswith(b"\x89PNG")


def test_sparse_models_of_other_packages_tell_no_routing() -> None:
    other = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(num_experts=4)))
    assert not is_sparse(other)
