"""Operations on a real model: SmolLM2-135M with four experts in each layer, from folder to folder, measured again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_real_parts import PARTS, PROMPTS
from transformers import AutoModelForMultimodalLM

from unimoe.build.model import build_model
from unimoe.checkpoint.loading import load_mixture
from unimoe.surgery import Certificate
from unimoe.surgery.calibration import read_calibration
from unimoe.surgery.choice import Wish
from unimoe.surgery.damage import Answers
from unimoe.surgery.folders import Rows
from unimoe.surgery.latent import LatentWish, latent_folder, multiplied_out, to_latent
from unimoe.surgery.merge import MergeWish, merge_folder
from unimoe.surgery.mixture import gated_stacks, sparse_layers
from unimoe.surgery.prune import prune_folder
from unimoe.surgery.quantize import quantize_folder
from unimoe.surgery.upcycle import upcycle_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the dense model, the mixture, and rows."""
    folder = tmp_path_factory.mktemp("real")
    model, processor = build_model(str(PARTS["language"]), dtype="float32")
    model.save_pretrained(folder / "dense")
    processor.save_pretrained(folder / "dense")
    rows = [{"messages": [turn("user", prompt), turn("assistant", prompt[::-1])]} for prompt in PROMPTS[:8]]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    upcycle_folder(folder / "dense", folder / "mixture", modality_routing="bias")
    return folder


def turn(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def measure(home: Path, before: Path, after: Path) -> tuple[Certificate, float]:
    """The certificate of a folder, and its number measured again on what `AutoModel` loads."""
    model, processor = load_mixture(before)
    answers = Answers.of(model, read_calibration(home / "rows.jsonl", model, processor))
    del model
    again = AutoModelForMultimodalLM.from_pretrained(after).eval()
    return Certificate.load(after), answers.compare(again).largest


def test_upcycling_is_exact(home: Path) -> None:
    certificate, again = measure(home, home / "dense", home / "mixture")
    assert certificate.kind == "exact" and certificate.difference < 1e-5
    assert again < 1e-5


def test_pruning_experts_that_no_token_chose_is_lossless(home: Path) -> None:
    model, processor = load_mixture(home / "mixture")
    with torch.no_grad():
        model.config.text_config.num_experts_per_tok = 3  # all others, so that rounding parts no near ties
        for layer in sparse_layers(model):
            layer.router.modality_bias[:, 3] = -1e4
            for expert, weights in enumerate(layer.experts.down_proj):  # so that it matters which are left
                weights *= 1 + 0.1 * expert
    model.save_pretrained(home / "shunned")
    processor.save_pretrained(home / "shunned")
    draft, certificate = prune_folder(
        home / "shunned", home / "pruned", rows=Rows(home / "rows.jsonl"), wish=Wish(keep=3)
    )
    assert all(kept == [0, 1, 2] for kept in draft.details["kept"].values())
    assert certificate is not None and certificate.kind == "exact"
    assert measure(home, home / "shunned", home / "pruned") == (certificate, certificate.difference)


def test_merging_copies_is_lossless(home: Path) -> None:
    wish = MergeWish(2, similarity="weights", align=False)
    _, certificate = merge_folder(home / "mixture", home / "merged", rows=Rows(home / "rows.jsonl"), wish=wish)
    assert certificate is not None and certificate.kind == "exact"
    assert measure(home, home / "mixture", home / "merged") == (certificate, certificate.difference)
    assert len(load_mixture(home / "merged")[0].model.language_model.layers[0].mlp.experts.down_proj) == 2


def test_the_error_of_latent_experts_is_the_tail_energy(home: Path) -> None:
    model, _ = load_mixture(home / "mixture")
    _, factors = to_latent(model, LatentWish(rank=256))
    for layer in sparse_layers(model)[::10]:
        stacks, after = gated_stacks(layer), multiplied_out(factors[layer.index].weights)
        lost = sum(float((a - b).double().square().sum()) for a, b in zip(stacks, after, strict=True))
        assert lost == pytest.approx(float(factors[layer.index].lost.sum()), rel=1e-4)
    wish = LatentWish(rank=256, whiten=False)
    _, certificate = latent_folder(home / "mixture", home / "latent", rows=Rows(home / "rows.jsonl"), wish=wish)
    assert certificate is not None
    assert measure(home, home / "mixture", home / "latent") == (certificate, certificate.difference)


def test_experts_in_8_bits_are_near_and_measured_again(home: Path) -> None:
    pytest.importorskip("torchao", reason="make test-quantize installs torchao")
    _, certificate = quantize_folder(home / "mixture", home / "quantised", rows=Rows(home / "rows.jsonl"))
    assert certificate is not None and certificate.details["quantised"]["experts"] == 1
    assert certificate.details["damage"]["text"]["divergence"] < 0.05
    assert measure(home, home / "mixture", home / "quantised") == (certificate, certificate.difference)
