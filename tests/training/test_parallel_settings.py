"""What cannot be right on several processes is refused when it is read, with the reason and the cure."""

import json

import pytest
import torch
from torch import nn

from training.config.stage import ParallelConfig
from training.config.training_arguments import arguments_for_estimate, deepspeed_arguments
from training.distributed.deepspeed import check_experts
from training.distributed.processes import is_lost_connection
from training.planning.memory import GRADIENTS, OPTIMIZER, WEIGHTS, StepMemory, meta_model
from training.planning.memory_parallel import across_processes, trained_bytes
from training.planning.traffic import Placement, step_traffic
from training.stage.run import run_stage
from unimoe import UniMoEConfig, UniMoETextConfig
from unimoe.errors import ConfigError
from unimoe.files.settings import validate


@pytest.fixture
def settings_file(tmp_path):
    def write(**values):
        path = tmp_path / "deepspeed.json"
        path.write_text(json.dumps(values))
        return str(path)

    return write


def parallel(**values):
    return validate(ParallelConfig, values, source="stage.yaml")


def test_expert_parallelism_needs_zero():
    with pytest.raises(ConfigError, match=r"needs zero: 1, 2 or 3\. Without ZeRO, .* clips each process by another"):
        parallel(expert_parallel_size=2)


@pytest.mark.parametrize(
    ("text", "processes", "message"),
    [
        ({"num_experts": 0}, 2, "the model has no experts"),
        ({"num_experts": 3}, 2, "does not divide the 3 experts of width 1536 of a layer. Choose a divisor of 3"),
        ({"num_experts": 4}, 3, r"does not divide the 3 process\(es\). Start a multiple of 2"),
        ({"num_experts": 4, "router_gradient": "dense"}, 2, "'dense', for which every process would need .* Choose"),
        (
            {"num_experts": 2, "expert_aliases": [[0, 0]] * 8},
            2,
            r"experts are merged \(expert_aliases\)\. Leave it out",
        ),
        (
            {"num_experts": 6, "expert_type": "latent", "expert_latent_groups": 3, "expert_latent_size": 8},
            2,
            "does not divide the 3 latent groups",
        ),
        (
            {"num_experts": 5, "reserved_experts": {"image": [4]}},
            2,
            "does not divide the 1 experts reserved for image",
        ),
    ],
)
def test_experts_that_cannot_be_spread_are_refused(text, processes, message):
    config = UniMoETextConfig(**text)
    with pytest.raises(ConfigError, match=message):
        check_experts(parallel(zero=2, expert_parallel_size=2), config, processes=processes)


@pytest.mark.parametrize(("zero", "is_assembled"), [(2, False), (3, True)])
def test_a_stage_refuses_them_before_it_opens_data(make_stage, mixture_start, workspace, zero, is_assembled):
    """Under ZeRO-3 too, where transformers would part the described model that is looked at."""
    dense = str(workspace / "start")
    start = {"assemble": {"base": dense, "experts": {"image": dense}}} if is_assembled else mixture_start
    parallel = {"zero": zero, "expert_parallel_size": 4}
    stage = make_stage(start=start, data={"mixture": ["nowhere.jsonl"]}, parallel=parallel)
    with pytest.raises(ConfigError, match="does not divide the 2 experts"):
        run_stage(stage)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"zero_optimization": {"stage": 0}}, "stage of .* is 0; choose 1, 2 or 3"),
        (
            {"zero_optimization": {"stage": 2}, "gradient_clipping": 1.0},
            r"clipping out .*trainer\.max_grad_norm",
        ),
        ({"zero_optimization": {"stage": 2}, "expert_parallel": {}}, r"Set parallel\.expert_parallel_size"),
        (
            {"zero_optimization": {"stage": 2}, "use_data_before_expert_parallelism": True},
            "leave use_data_before_expert_parallelism out .* Neighbouring processes share experts",
        ),
        ({"zero_optimization": {"stage": 3}}, "zero is 2, but .* has stage 3. Leave one of them out"),
    ],
)
def test_settings_of_deepspeed_that_a_stage_decides_are_refused(settings_file, values, message):
    with pytest.raises(ConfigError, match=message):
        parallel(zero=2, deepspeed=settings_file(**values))


def test_a_settings_file_that_cannot_be_read_is_named():
    with pytest.raises(ConfigError, match=r"nowhere\.json cannot be read"):
        parallel(deepspeed="nowhere.json")


def test_settings_go_to_deepspeed(make_stage):
    stage = make_stage(parallel={"deepspeed": "configs/deepspeed/zero3_offload.json"})
    assert stage.parallel.zero == 3
    given = deepspeed_arguments(stage)["deepspeed"]
    assert given["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert given["zero_optimization"]["stage3_prefetch_bucket_size"] == 0 and given["gradient_clipping"] == "auto"


def test_a_plan_gives_each_process_its_share_of_experts_and_weights(make_stage, mixture_start):
    config = UniMoEConfig.from_pretrained(mixture_start)
    sizes = {}
    for zero, size in ((2, 1), (2, 2), (3, 1), (3, 2)):
        stage = make_stage(
            start=mixture_start,
            train={"parts": ["experts", "router"]},
            parallel={"zero": zero, "expert_parallel_size": size},
        )
        model, _ = meta_model(stage, config)
        whole, trained = sum(each.nbytes for each in model.parameters()), trained_bytes(model)
        parts = {WEIGHTS: whole, GRADIENTS: trained, OPTIMIZER: 2 * trained}
        step = StepMemory(dict(parts), dict(parts), flops=0)
        sizes[zero, size] = across_processes(step, stage, model, processes=4, on_cpu=True).backward
    placement = Placement.of(model)
    assert sizes[2, 1][WEIGHTS] == whole and sizes[2, 2][WEIGHTS] == whole - placement.experts // 2
    assert sizes[2, 2][GRADIENTS] == sizes[2, 1][GRADIENTS] - placement.trained_experts // 2
    assert sizes[3, 1][WEIGHTS] < sizes[2, 1][WEIGHTS] and sizes[3, 2][WEIGHTS] <= sizes[3, 1][WEIGHTS]
    alone = step_traffic(
        stage, arguments_for_estimate(stage), placement, processes=1, choices=10, num_experts=2, hidden_size=32
    )
    assert (alone.exchange, alone.gradients, alone.weights) == (0, 0, 0)


def test_a_placement_counts_every_parameter_once(make_stage, mixture_start):
    stage = make_stage(start=mixture_start, train={"parts": ["router"], "lora": {"parts": ["experts"], "r": 2}})
    model, _ = meta_model(stage, UniMoEConfig.from_pretrained(mixture_start))
    placement = Placement.of(model)
    assert placement.experts + placement.kept + placement.others == sum(each.nbytes for each in model.parameters())
    assert placement.trained + placement.trained_experts == trained_bytes(model)
    assert placement.trained_experts > 0, "deltas of experts are spread as well"
    assert Placement.of(nn.Linear(2, 2)).others == 24


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 30000ms for recv operation to complete", True),
        ("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.99.0.2]:4711", True),
        ("[gloo/transport/tcp/pair.cc:534] connect: No route to host", True),
        ("DataLoader timed out after 30 seconds", False),
        ("mat1 and mat2 shapes cannot be multiplied", False),
    ],
)
def test_errors_of_a_lost_process_are_known(message, lost):
    assert is_lost_connection(RuntimeError(message)) is lost
    assert not is_lost_connection(ValueError(message))
    assert torch.distributed.is_available()
