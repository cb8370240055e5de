"""Tiny releases of the Uni-MoE v1 family, converted, and their weights as the released loader would hold them."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from reference.uni_moe_language import Language
from reference_folders import EXPERT_FILES, LAYERS, save_release, sparse_layers
from torch import Tensor

from unimoe.convert import Conversion, read_release
from unimoe.surgery import Certificate


class Released(NamedTuple):
    """A release: its folders, its files, and what was converted."""

    name: str
    root: Path
    files: dict[str, dict[str, Tensor]]
    conversion: Conversion
    certificate: Certificate

    @property
    def language(self) -> Language:
        """Its language model, written slowly."""
        is_8e, sparse = self.name == "8e", tuple(sparse_layers(self.name))
        sizes = {"layers": LAYERS, "heads": 4, "key_value_heads": 4, "experts": 8 if is_8e else 4, "sparse": sparse}
        return Language("8e" if is_8e else "v1", eps=1e-5, theta=1e4, **sizes)


def read(root: Path, release: str, **more: Any) -> Conversion:
    sound = {"audio": root / "BEATs.pt"} if release == "v1-audio" else {"speech": root / "whisper"}
    folders = {"base": root / "base", "experts": root / "experts" if release == "8e" else None}
    return read_release(root / "tuned", **{"vision": root / "clip", **sound, **folders, **more})


def convert_release(name: str, root: Path) -> Released:
    """Write a release and convert it into the folder out/."""
    files = save_release(name, root)
    conversion = read(root, name)
    return Released(name, root, files, conversion, conversion.write(root / "out", shard_size="40KB"))


def moe_names(release: str) -> tuple[str, str]:
    """Names of the router and the experts of a layer."""
    start = "mlp.deepspeed_moe."
    return (f"{start}gate.wg", f"{start}experts.deepspeed_experts") if release == "8e" else ("mlp.gate", "mlp.experts")


def loaded(released: Released, *, scale: float = 2.0, tunes_routers: bool = False) -> dict[str, Tensor]:
    """Weights of a release in the order of its loader, LoRA merged in float32.

    Args:
        released: Which.
        scale: Alpha / r of LoRA.
        tunes_routers: Keep the changes of routers by LoRA, which the loader writes over.
    """
    files, experts = released.files, moe_names(released.name)[1]
    weights = dict(files["base"])
    if released.name == "8e":
        for expert, file in enumerate(EXPERT_FILES):
            pairs = files[f"{expert}_mlp_experts.bin"]
            for name, value in torch.load(released.root / f"experts/mlp_{file}.bin").items():
                layer, part = name.split(".")[2], name.split(".")[4]
                start = f"model.layers.{layer}.mlp.deepspeed_moe.experts.deepspeed_experts.0.{part}_lora_"
                a, b = (pairs[f"{start}{factor}.weight"].float() for factor in "AB")
                weights[f"model.layers.{layer}.{experts}.{expert}.{part}.weight"] = value + scale * (b @ a)
    later = {name.removeprefix("base_model.model."): v for name, v in files["non_lora_trainables.bin"].items()}
    weights |= {**later, **files["mm_audio_aligner.bin"], **files["mlp_gates.bin"]}
    adapter = files["adapter_model.bin"]
    for name, a in adapter.items():
        plain = name.removeprefix("base_model.model.").replace("lora_A.weight", "weight")
        if name.endswith("lora_A.weight") and (tunes_routers or ".mlp.gate." not in name):
            weights[plain] = weights[plain] + scale * (adapter[name.replace("lora_A", "lora_B")] @ a)
    return weights
