import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.evalai import normalise_vqa_answer
from evaluation.intervals import bootstrap, interval
from evaluation.metrics import METRICS, exact_match, is_unparsed, ratio, score_all, vqa_accuracy, word_errors


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("two dogs", "2 dogs"),
        ("The red, car", "red car"),
        ("dont", "don't"),
        ("1,000", "1000"),
        ("$5.00", "$5.00"),
        ("t-shirt", "t shirt"),
        ("A man.", "man"),
        ("None", "0"),
        ("dog's\ttail", "dog 's tail"),
        ("couldnt've", "couldn't've"),
        ("shouldntve", "shouldn't've"),
        ("they are well", "they are well"),
        ("yes!", "yes"),
        ("(left) side", "left side"),
    ],
)
def test_evalai_normaliser_fixed_points(raw: str, normal: str) -> None:
    assert normalise_vqa_answer(raw) == normal


@pytest.mark.parametrize(("matches", "score"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_leaves_annotators_out_by_position(matches: int, score: float) -> None:
    answers = ["red"] * matches + [f"other {index}" for index in range(10 - matches)]
    assert vqa_accuracy("The Red.", answers) == pytest.approx(score)


@pytest.mark.parametrize(
    ("prediction", "reference", "hit"),
    [
        ("Red.", "red", 1),
        ("the red car", "Red car", 1),
        ("a", "A", 1),
        ("redder", "red", 0),
        ("", "a", 0),
        (" . ", "the", 0),
        ("red car", "red", 0),
    ],
)
def test_exact_match_ignores_case_punctuation_and_articles(prediction: str, reference: str, hit: int) -> None:
    assert exact_match(prediction, reference) == hit


def test_an_empty_answer_is_unparsed_and_never_right() -> None:
    assert is_unparsed("") and is_unparsed(" ?!\n") and not is_unparsed("a")
    assert vqa_accuracy("", ["", "the", "."] * 4) == 0.0


def test_wer_is_that_of_the_corpus_not_the_mean_of_sentences() -> None:
    jiwer = pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")
    references = ["Mr. Smith's colour was twenty-three, uh", "A cat sat here.", "hello"]
    predictions = ["mister smith is color was 23", "a cat here", ""]
    scores = score_all(METRICS["wer"], ((p, r, (r,)) for p, r in zip(predictions, references, strict=True)))
    assert scores[0].tolist() == [0.0, 6.0]
    corpus = jiwer.process_words(["a cat sat here", "hello"], ["a cat here", ""])
    assert ratio(scores[1:]) == pytest.approx(corpus.wer) == pytest.approx(2 / 5)


def test_references_without_words_have_no_error_rate() -> None:
    with pytest.raises(EvaluationError, match="no reference holds a word"):
        ratio(np.array([[1.0, 0.0]]))


def test_wer_counts_insertions_into_a_silent_reference() -> None:
    pytest.importorskip("whisper_normalizer")
    assert word_errors("red dog", "uh") == (2.0, 0.0)


def test_intervals_hold_the_value_and_shrink_with_rows() -> None:
    def width(rows: int) -> float:
        scores = np.ones((rows, 2))
        scores[: rows // 5, 0] = 0
        low, high = interval(bootstrap(scores, [str(row) for row in range(rows)], samples=1000, seed=0))
        assert low < 0.8 < high
        return high - low

    assert width(2000) == pytest.approx(width(200) / np.sqrt(10), rel=0.15)
    assert width(2000) == pytest.approx(2 * 1.96 * np.sqrt(0.8 * 0.2 / 2000), rel=0.1)


def test_rows_of_one_cluster_count_as_one() -> None:
    scores = np.ones((400, 2))
    scores[:200, 0] = 0
    alone = bootstrap(scores, [str(row) for row in range(400)], samples=500, seed=0)
    together = bootstrap(scores, [str(row // 4) for row in range(400)], samples=500, seed=0)
    assert together.std() == pytest.approx(2 * alone.std(), rel=0.15)


def test_equal_seeds_draw_equal_rows_so_differences_are_paired() -> None:
    scores = np.column_stack([np.random.default_rng(0).integers(0, 2, 100), np.ones(100)])
    clusters = [str(row) for row in range(100)]
    first, second = (bootstrap(scores, clusters, samples=200, seed=3) for _ in range(2))
    assert np.array_equal(first, second)


def test_scores_without_clusters_are_refused() -> None:
    with pytest.raises(ValueError, match="Found 2 scores but 1 clusters"):
        bootstrap(np.ones((2, 2)), ["a"], samples=100, seed=0)
