"""transformers' own common tests on our classes; `make transformers-tests` fetches them and runs this file.

A test that fails is named in FAILS with its reason, and must go on failing. Where the tests were not fetched, nothing
of this runs. Generation, whose common tests the source distribution lacks, is covered by `test_generation.py`.
"""

import unittest
import warnings
from collections.abc import Iterator

import pytest
from common_cases import SUITES
from transformers_tests import ABSENT, TESTS, load

pytestmark = pytest.mark.slow

GENERATION = "the module of GenerationTesterMixin is not in the distribution; test_generation.py covers generation"
VALUES = "it looks for input_values or input_features; our argument is audio_features"
SAMPLING = "it passes do_sample_frames, of video processors; we have none and refuse the argument by name"
FAILS = {
    "multimodal::test_generation_tester_mixin_inheritance": GENERATION,
    "text::test_generation_tester_mixin_inheritance": GENERATION,
    "multimodal::test_get_audio_features_output_0": VALUES,
    "multimodal::test_get_audio_features_output_2": VALUES,
    "processing::test_flat_kwarg_applied_when_modality_dict_lacks_it": SAMPLING,
    "processing::test_model_input_names": SAMPLING,
    "processing::test_processor_from_pretrained_vs_from_components": (
        "it builds the processor of the parts that get_attributes names; of ours only the tokenizer is required"
    ),
}
EXPECTED_ABSENT = {
    "exporters.test_export",
    "fetch_hub_objects_for_ci",
    "generation.test_utils",
    "utils.test_configuration_utils",
}


def found() -> Iterator[tuple[type[unittest.TestCase], str, str]]:
    for suite in SUITES if TESTS.is_dir() else ():
        for key, case in suite().items():
            for name in unittest.TestLoader().getTestCaseNames(case):
                yield case, name, f"{key}::{name}"


CASES = list(found())


@pytest.fixture(scope="session")
def prepared() -> set:
    """The classes whose `setUpClass` ran."""
    return set()


@pytest.mark.parametrize(("case", "name", "key"), CASES, ids=[key for _, _, key in CASES])
def test_a_common_test_passes_or_fails_for_the_reason_given(case, name, key, prepared) -> None:
    if case not in prepared:
        case.setUpClass()
        prepared.add(case)
    result = unittest.TestResult()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        case(name).run(result)
    problems = [trace for _, trace in result.failures + result.errors]
    if key in FAILS:
        assert problems, f"{key} passes: take it out of FAILS"
    else:
        assert not problems, problems[0]
    if result.skipped and not problems:
        pytest.skip(result.skipped[0][1])


def test_what_is_named_exists() -> None:
    if not CASES:
        pytest.skip(f"transformers' tests were not fetched to {TESTS}: make transformers-tests")
    assert FAILS.keys() <= {key for _, _, key in CASES}
    load("test_modeling_common")
    print("replaced by empty mixins, as the source distribution does not contain them:", *sorted(ABSENT))
    assert EXPECTED_ABSENT <= ABSENT
