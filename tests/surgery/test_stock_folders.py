"""Folders of transformers' mixtures: each operation runs on them, what it writes reloads, and certificates hold."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stock import STOCK, VISION
from surgery.rows import measure_again, write_rows
from tiny import TEXT
from tiny_processor import byte_tokenizer
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from typer.testing import CliRunner

from unimoe.cli import app
from unimoe.errors import UniMoEError
from unimoe.surgery.choice import Wish
from unimoe.surgery.folders import Rows
from unimoe.surgery.latent import LatentWish, latent_folder
from unimoe.surgery.merge import MergeWish, merge_folder
from unimoe.surgery.prune import prune_folder

KINDS = ["mixtral", "qwen2_moe", "qwen3_moe", "olmoe", "qwen3_vl_moe"]
MARKS = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
TEMPLATE = (
    "{% for message in messages %}{% for item in message.content %}{% if item.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ item.text }}{% endif %}{% endfor %}\n{% endfor %}"
)
OPERATIONS: dict[str, Callable[..., Any]] = {
    "prune": lambda *folders, rows: prune_folder(*folders, rows=rows, wish=Wish(keep=3)),
    "merge": lambda *folders, rows: merge_folder(*folders, rows=rows, wish=MergeWish(3)),
    "merge, rows dropped": lambda *folders, rows: merge_folder(*folders, rows=rows, wish=MergeWish(3, rows="drop")),
    "latent": lambda *folders, rows: latent_folder(*folders, rows=rows, wish=LatentWish(rank=16, materialize=True)),
}


def save(kind: str, folder: Path) -> Path:
    """Save a tiny model of a kind with its tokenizer or processor."""
    tokenizer = byte_tokenizer(placeholders=False)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    image, video, start, end = map(tokenizer.convert_tokens_to_ids, MARKS)
    text = {**TEXT, **STOCK[kind], "vocab_size": len(tokenizer), "num_experts_per_tok": 2}
    auto_class: Any = AutoModelForCausalLM
    if kind == "qwen3_vl_moe":
        auto_class = AutoModelForImageTextToText
        ids = {"image_token_id": image, "video_token_id": video, "vision_start_token_id": start}
        tower = {**VISION, "deepstack_visual_indexes": [0]}
        config = AutoConfig.for_model(kind, text_config=text, vision_config=tower, vision_end_token_id=end, **ids)
        pixels = {"patch_size": 16, "size": {"shortest_edge": 32 * 32, "longest_edge": 64 * 64}}
        Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(**pixels),
            tokenizer=tokenizer,
            video_processor=Qwen3VLVideoProcessor(**pixels),
            chat_template=TEMPLATE,
        ).save_pretrained(folder)
    else:
        config = AutoConfig.for_model(kind, **text)
        tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    model = auto_class.from_config(config)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder


def rows_of(kind: str, folder: Path) -> Path:
    return write_rows(folder, ("image", "text") if kind == "qwen3_vl_moe" else ("text",))


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_an_operation_writes_reloads_and_is_measured_again(kind: str, operation: str, tmp_path: Path) -> None:
    folder, rows = save(kind, tmp_path / "model"), rows_of(kind, tmp_path / "data")
    draft, certificate = OPERATIONS[operation](folder, tmp_path / "out", rows=Rows(rows))
    assert certificate is not None
    assert measure_again(folder, tmp_path / "out", rows).largest > 0
    keys = {"image", "text"} if kind == "qwen3_vl_moe" else {"text"}
    assert {key for own in draft.losses.values() for key in own} == keys


@pytest.mark.parametrize("kind", KINDS)
def test_latent_experts_are_refused_with_the_reason(kind: str, tmp_path: Path) -> None:
    folder, rows = save(kind, tmp_path / "model"), rows_of(kind, tmp_path / "data")
    with pytest.raises(UniMoEError, match=r"no class of transformers has latent experts, and this is a \w+For"):
        latent_folder(folder, tmp_path / "out", rows=Rows(rows), wish=LatentWish(rank=16))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_info_and_audit_describe_what_became_of_it(kind: str, tmp_path: Path) -> None:
    folder, rows = save(kind, tmp_path / "model"), rows_of(kind, tmp_path / "data")
    prune_folder(folder, tmp_path / "out", rows=Rows(rows), wish=Wish(keep=3))
    run = CliRunner().invoke
    described = run(app, ["info", str(tmp_path / "out")])
    assert described.exit_code == 0 and "3 of width" in described.output, described.output
    audited = run(app, ["audit", str(folder), str(tmp_path / "out")])
    assert audited.exit_code == 0 and "router" in audited.output, audited.output
