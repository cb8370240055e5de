"""Captions with Java, where it is: the tokeniser of the published scores, and METEOR."""

import shutil
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError
from evaluation.metrics import METRICS, ratio
from evaluation.metrics.tokenisers import plain, tokenise
from evaluation.tasks import Sample

CAPTIONS = ["A dog's ball, isn't it?", "", "Hello\u2028world, café 漢!", " \n ", "Two t-shirts ..."]
ROWS = [
    (("the dog's ball", "a dog with a ball"), "A dog's ball."),
    (("a man riding a horse on a beach", "man on horse"), "a man rides a horse on the beach"),
    (("two cats", "cats asleep"), ""),
]
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="needs Java")


def rows() -> tuple[list[Sample], list[str]]:
    samples = [Sample(str(n), (), "", answers, str(n)) for n, (answers, _) in enumerate(ROWS)]
    return samples, [prediction for _, prediction in ROWS]


@needs_java
def test_the_treebank_tokeniser_keeps_captions_apart_whatever_they_hold() -> None:
    pytest.importorskip("pycocoevalcap")
    found = tokenise(CAPTIONS)
    assert found.tokeniser == "Penn Treebank"
    assert found.captions == ["a dog 's ball is n't it", "", "hello world café 漢", "", "two t-shirts"]


@needs_java
def test_java_that_does_not_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pycocoevalcap")
    broken = tmp_path / "java"
    broken.write_text("#!/bin/sh\necho no memory >&2\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("shutil.which", lambda name: str(broken))
    with pytest.raises(EvaluationError, match=r"gave 1 captions for 3 \(exit code 3\): no memory"):
        tokenise(CAPTIONS)


@pytest.mark.usefixtures("no_java")
def test_without_java_the_plain_tokeniser_is_named_and_what_is_left_out_is_said() -> None:
    pytest.importorskip("pycocoevalcap")
    scores = METRICS["captions"].score(*rows())
    assert list(scores.values) == ["cider_d", "bleu_4", "rouge_l"]
    assert scores.unparsed.tolist() == [False, False, True]
    for words in (
        "tokeniser: plain",
        "references of these 3 rows",
        "METEOR is left out",
        "SPICE and SPIDEr are left out",
    ):
        assert any(words in note for note in scores.notes)
    assert plain("A Dog's ball, isn't it? t-shirt") == "a dog's ball isn't it t shirt"


@pytest.mark.usefixtures("no_java")
def test_one_caption_alone_scores_0_because_no_word_is_rarer_than_another() -> None:
    pytest.importorskip("pycocoevalcap")
    alone = Sample("0", (), "", ("a red dog runs",), "0")
    assert ratio(METRICS["captions"].score([alone], ["a red dog runs"]).main) == 0


@needs_java
@pytest.mark.slow
def test_meteor_is_that_of_pycocoevalcap() -> None:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.meteor.meteor import Meteor

    samples, predictions = rows()
    scores = METRICS["captions"].score(samples, predictions)
    found = iter(tokenise([*predictions, *(text for sample in samples for text in sample.answers)]).captions)
    given = {n: [next(found)] for n in range(len(samples))}
    true = {n: [next(found) for _ in sample.answers] for n, sample in enumerate(samples)}
    assert ratio(scores.values["meteor"]) == pytest.approx(Meteor().compute_score(true, given)[0], abs=1e-6)
    assert any("Penn Treebank" in note for note in scores.notes)
