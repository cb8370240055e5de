from pathlib import Path
from typing import get_args

import pytest

from evaluation.config import MetricName, load_config
from evaluation.metrics import METRICS
from evaluation.tasks import BENCHMARKS
from unimoe.errors import ConfigError

VALID = "output: out\ntasks:\n  vqa: {data: a.jsonl, train: b.jsonl}\n"


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "eval.yaml"
    path.write_text(VALID)
    return path


def test_every_metric_can_be_asked_for() -> None:
    assert get_args(MetricName) == tuple(METRICS)


def test_defaults_are_greedy_exact_match(config_file: Path) -> None:
    config = load_config(config_file)
    assert config.tasks["vqa"].metric is None, "which is exact_match, or the benchmark's"
    assert config.decoding(config.tasks["vqa"]) == {"do_sample": False, "max_new_tokens": 32}


def test_overrides_are_read_as_yaml_and_may_open_new_sections(config_file: Path) -> None:
    config = load_config(config_file, ["tasks.vqa.limit=5", "bootstrap.samples=200", "generation={num_beams: 3}"])
    assert config.tasks["vqa"].limit == 5
    assert config.bootstrap.samples == 200
    assert config.decoding(config.tasks["vqa"])["num_beams"] == 3


def test_the_longest_answer_is_that_of_the_task_the_evaluation_or_the_benchmark() -> None:
    def longest(*overrides: str) -> int:
        config = load_config(None, overrides, tasks=["pope"])
        return int(config.decoding(config.tasks["pope"])["max_new_tokens"])

    assert longest() == BENCHMARKS["pope"].max_new_tokens
    assert longest("max_new_tokens=5") == 5
    assert longest("max_new_tokens=5", "tasks.pope.max_new_tokens=7") == 7


@pytest.mark.parametrize(
    ("override", "key", "hint"),
    [
        ("batch_sise=4", "batch_sise", "Did you mean 'batch_size'?"),
        ("tasks.vqa.metrik=wer", "tasks.vqa.metrik: unknown key", "Did you mean 'metric'?"),
        ("tasks.vqa.metric=accuracy", "tasks.vqa.metric", "'exact_match', 'vqa_accuracy', 'anls'"),
        ("tasks.vqa.limit=0", "tasks.vqa.limit", "greater than or equal to 1"),
        ("bootstrap.sample=300", "bootstrap", "Did you mean 'samples'?"),
    ],
)
def test_a_wrong_key_is_named_with_file_and_cure_in_one_line(
    config_file: Path, override: str, key: str, hint: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(config_file, [override])
    message = str(error.value)
    assert message.startswith(f"{config_file}: ")
    assert key in message
    assert hint in message
    assert "\n" not in message


@pytest.mark.parametrize("override", ["batch_size", "=3", "output.sub=1", "tasks.vqa.limit=[1"])
def test_a_malformed_override_is_refused(config_file: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="override"):
        load_config(config_file, [override])


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        load_config(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1\nb: 2")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken)


@pytest.mark.parametrize("path", sorted(Path("configs/evaluation").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_loads_and_starts_with_its_command(path: Path) -> None:
    load_config(path)
    assert path.read_text().startswith("# python -m evaluation --model")


def test_an_output_that_holds_a_nul_is_one_error() -> None:
    with pytest.raises(ConfigError, match=r"output.*NUL"):
        load_config(None, ['output="a\\0b"'], tasks=["pope"])
