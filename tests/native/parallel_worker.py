"""One process of a sharded model: answer the questions of a file and write what came out (see test_parallel.py)."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM
from transformers.distributed import DistributedConfig

import unimoe  # noqa: F401  # registers the classes

SPLITS = {
    "tp": DistributedConfig(tp_size=2),
    "pp": DistributedConfig(pp_size=2),
    "all_to_all": DistributedConfig(tp_size=2, ep_size=2, ep_implementation="all_to_all"),
    "all_reduce": DistributedConfig(tp_size=2, ep_size=2, ep_implementation="all_reduce"),
}


def main(folder: Path, kind: str, split: str) -> None:
    dist.init_process_group("gloo")
    auto_class = AutoModelForMultimodalLM if kind == "multimodal" else AutoModelForCausalLM
    model = auto_class.from_pretrained(folder / "model", distributed_config=SPLITS[split])
    inputs = torch.load(folder / "inputs.pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    tokens = model.generate(**inputs, do_sample=False, eos_token_id=None, max_new_tokens=4)
    result = {"logits": logits, "tokens": tokens}
    if split != "pp":
        loss = model(**inputs, labels=inputs["input_ids"]).loss
        loss.backward()
        result["loss"] = loss.detach()
        result["router_gradient"] = next(p.grad for n, p in model.named_parameters() if n.endswith("router.weight"))
    if dist.get_rank() == 0:
        torch.save(result, folder / "result.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
