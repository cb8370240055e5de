"""The loss of the label prior: what a model loses that knows nothing but how often each answer occurs."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from training.config.data import DataConfig
from training.data import Collator, MixtureDataset, Row
from training.data.label_prior import (
    Answers,
    answers_of_source,
    best_prior_loss,
    count_answers,
    evenly,
    label_counter,
    mixture_prior,
    prior_loss,
    prior_losses,
)
from training.data.mixture.dataset import Source, read_mixture


def rows(*answers):
    """One row of two turns for each pair of answers."""
    text = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in answers]
    return [Row("id", "where", [{"role": "user", "content": []}, {"role": "assistant", "content": a}]) for a in text]


@pytest.fixture(scope="module")
def processor(workspace):
    return AutoProcessor.from_pretrained(workspace / "start")


def test_it_is_the_entropy_of_the_answers_spread_over_their_labels():
    known = count_answers(rows(*"aaabb" * 2))
    loss = prior_loss(known, known, {"a": 2, "b": 5})
    entropy = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
    assert loss.loss == pytest.approx(entropy / (0.6 * 2 + 0.4 * 5))


@given(
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), min_size=2),
    st.dictionaries(st.sampled_from("abcde"), st.integers(1, 9), min_size=1),
)
def test_no_prior_of_other_rows_loses_less_than_their_own(training, validation):
    known, own = Answers(Counter(training)), Answers(Counter(validation))
    labels = dict.fromkeys("abcde", 1)
    other = prior_loss(own, known, labels)
    assert other.problem or other.nats >= prior_loss(own, own, labels).nats - 1e-9


def test_an_unseen_answer_counts_as_one_that_occurred_once():
    known, seen = count_answers(rows(*"aaab")), count_answers(rows(*"aac"))
    loss = prior_loss(seen, known, dict.fromkeys("abc", 1))
    assert loss.nats == pytest.approx(-2 * math.log(3 / 5) - math.log(1 / 5))


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ("aaaa", "one answer alone"),
        ("abcda", "4 of 5 answers are distinct"),
        (["a", "a", [{"type": "image", "path": "x"}]], "answers with media"),
    ],
)
def test_where_it_is_not_defined_is_said(answers, problem):
    known = count_answers(rows(*answers))
    assert known.problem == problem
    loss = best_prior_loss(count_answers(rows("a", "a")), [known], len)
    assert loss.loss is None and loss.problem == problem


def test_answers_that_no_training_file_has_get_no_prior():
    known = [count_answers(rows(*"aabb"))]
    assert best_prior_loss(count_answers(rows(*"xxya")), known, len).problem == "most answers are in no training file"


def test_a_validation_file_gets_the_prior_of_the_training_file_that_fits_it_best():
    colours, words = count_answers(rows(*"rrgg")), count_answers(rows(*"rxxxyyyy"))
    validation = count_answers(rows(*"rg"))
    assert best_prior_loss(validation, [words, colours], len).loss == pytest.approx(math.log(2))


def test_a_stream_has_no_prior(write_jsonl):
    path = write_jsonl({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})
    (source,) = read_mixture(DataConfig(mixture=[{"path": str(path), "stream": True}]))
    assert answers_of_source(source.rows).problem == "a stream"


def test_labels_are_those_of_the_collator(workspace, processor):
    """Of rows with media and several turns too."""
    count = label_counter(processor)
    for name in ("image_kind", "text"):
        (source,) = read_mixture(DataConfig(mixture=[str(workspace / "data" / f"{name}_train.jsonl")]))
        dataset = MixtureDataset([source], seed=0)
        batch = Collator(processor)([dataset[number] for number in range(4)])
        counts = [count(answer) for number in range(4) for answer in count_answers([source.rows[number]]).counts]
        assert (batch["labels"] >= 0).sum(dim=-1).tolist() == counts


def test_that_of_a_mixture_weighs_files_as_the_mixture_does(processor):
    config = DataConfig(mixture=["x"]).augment
    files = [rows(*"aabb"), rows(*"cccccccd")]
    answers = [count_answers(each) for each in files]
    losses = prior_losses(answers, processor)
    sources = [Source("a", files[0], 2.0, config), Source("b", files[1], 0.5, config)]
    mixed = mixture_prior(MixtureDataset(sources, seed=0), losses)
    assert mixed.nats == pytest.approx(2 * losses[0].nats + 0.5 * losses[1].nats)
    assert mixed.labels == 2 * losses[0].labels + 0.5 * losses[1].labels


def test_rows_are_spread_evenly():
    assert evenly(10, 4) == [0, 2, 5, 7] and evenly(3, 10) == [0, 1, 2] and evenly(5, 0) == evenly(0, 5) == []
