"""A validation that nobody asked to be otherwise takes at most its share of the training's work, where that can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from training.config.train import ValidationConfig
from training.stage.stage import Stage
from training.trainer.validation_plan import FEWEST, choose_times_and_rows, work_of_look

SIZES = st.lists(st.integers(1, 3000), min_size=1, max_size=4)


@given(
    sizes=SIZES,
    work=st.floats(10, 1e6),
    steps=st.integers(1, 1000),
    at_start=st.booleans(),
    batch_size=st.sampled_from([1, 8, 48]),
    config=st.builds(ValidationConfig, share=st.sampled_from([0.01, 0.05, 0.5]), answers=st.sampled_from([0, 16])),
)
def test_it_takes_its_share_or_as_little_as_is_looked_at_at_all(sizes, work, steps, at_start, batch_size, config):
    plan = choose_times_and_rows(sizes, work, config, steps=steps, at_start=at_start, batch_size=batch_size)
    rows = plan.rows or max(sizes)
    looks = plan.times + at_start
    assert plan.share == pytest.approx(looks * work_of_look(sizes, rows, config, batch_size=batch_size) / work)
    assert 1 <= plan.times <= min(10, steps)
    assert plan.share <= config.share or (plan.times, rows) == (1, min(FEWEST, max(sizes)))


def choose(sizes, trained_rows):
    return choose_times_and_rows(sizes, trained_rows, ValidationConfig(), steps=600, at_start=True, batch_size=8)


def test_a_long_stage_looks_at_all_rows_ten_times_a_shorter_one_at_fewer_and_less_often():
    assert (choose([200], 1_000_000).times, choose([200], 1_000_000).rows) == (10, None)
    middle = choose([5000], 50_000)
    assert middle.times == 10 and 64 <= middle.rows < 5000
    short = choose([5000], 10_000)
    assert short.times < middle.times and short.rows >= 64
    assert (choose([5000], 100).times, choose([5000], 100).rows) == (1, FEWEST)


@pytest.fixture
def planned(make_stage, workspace, quiet):
    """What a stage that was built looks at."""

    def plan(**changes):
        files = [str(workspace / "data" / f"{name}_train.jsonl") for name in ("image_kind", "text")]
        data = {"mixture": files[1:], "validation": files[:1], **changes.pop("data", {})}
        stage = Stage.open(make_stage(data=data, **changes), name="stage", title="stage", resume=False, console=quiet)
        stage.build()
        return stage

    return plan


@pytest.fixture
def quiet():
    return Console(quiet=True)


def test_the_same_stage_looks_at_the_same_rows_each_time(planned):
    changes = {"trainer": {"max_steps": 4000}, "train": {"parts": ["mlp"], "validation": {"share": 0.02}}}
    first, second = planned(**changes), planned(**changes)
    assert first.validation_plan == second.validation_plan and first.validation_plan.share <= 0.02
    assert first.trainer.validation.batches == second.trainer.validation.batches
    assert first.args.eval_steps == -(-4000 // first.validation_plan.times)


@pytest.mark.parametrize(
    "trainer",
    [{"eval_steps": 3}, {"eval_strategy": "epoch"}, {"load_best_model_at_end": True, "save_steps": 0.1}],
)
def test_a_stage_that_says_how_often_looks_at_all_rows(planned, trainer):
    stage = planned(trainer={"max_steps": 10, **trainer}, train={"parts": ["mlp"]})
    rows = stage.trainer.validation
    assert stage.validation_plan.times is None and rows.rows_of_files("own") == rows.dataset.sizes
    assert stage.args.eval_steps in (3, 0.1)


def test_packs_are_counted_by_their_tokens(planned):
    train = {"parts": ["mlp"], "validation": {"answers": 0}}
    plain = planned(train=train, trainer={"max_steps": 100, "per_device_train_batch_size": 1})
    packed = planned(
        train=train,
        trainer={"max_steps": 100, "per_device_train_batch_size": 1},
        data={"packing": True, "max_length": 400},
    )
    assert packed.validation_plan.share < plain.validation_plan.share or (
        packed.validation_plan.times > plain.validation_plan.times
    )
