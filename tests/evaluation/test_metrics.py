"""What each metric says of single answers; `test_metric_parity.py` compares whole sets with slow references."""

import re
from typing import Any

import numpy as np
import pytest

from evaluation.errors import EvaluationError
from evaluation.metrics import (
    METRICS,
    anls,
    character_errors,
    check_rows,
    contains,
    exact_match,
    is_unparsed,
    normalise_vqa_answer,
    ratio,
    read_choice,
    read_option,
    read_yes_no,
    vqa_accuracy,
    without_thoughts,
    word_errors,
)
from evaluation.tasks import Sample

CHOICES = ("red", "dark red", "a dog", "Vitamin C")


def row(number: int = 0, reference: str = "yes", *answers: str, **fields: Any) -> Sample:
    return Sample(str(number), (), reference, answers or (reference,), str(number), f"rows:{number}", **fields)


def score(metric: str, samples: list[Sample], predictions: list[str]) -> dict[str, float]:
    return {name: ratio(pairs) for name, pairs in METRICS[metric].score(samples, predictions).values.items()}


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
        ("shouldnt've", "shouldn't've"),
        ("shouldntve", "shouldntve"),  # two apostrophes are missing; not in the published table
        ("twas", "'twas"),
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
        ("3.5", "35", 0),
        ("3.5.", "3.5", 1),
        ("-5", "5", 0),
        ("10:30", "1030", 0),
        ("1,000", "1000", 1),
        ("U.S.A.", "usa", 1),
        ("t-shirt", "tshirt", 1),
        ("+", "+", 1),
        ("+", "-", 0),
    ],
)
def test_exact_match_ignores_case_punctuation_and_articles(prediction: str, reference: str, hit: int) -> None:
    assert exact_match(prediction, reference) == hit


def test_an_empty_answer_is_unparsed_and_never_right() -> None:
    assert is_unparsed("") and is_unparsed(" \n") and not is_unparsed("?") and not is_unparsed("a")
    assert vqa_accuracy("%", ["%"] * 10) == 1.0, "a sign may be the answer"
    assert vqa_accuracy("", ["", "the", "."] * 4) == 0.0


def test_wer_is_that_of_the_corpus_not_the_mean_of_sentences() -> None:
    jiwer = pytest.importorskip("jiwer")
    pytest.importorskip("whisper_normalizer")
    references = ["Mr. Smith's colour was twenty-three, uh", "A cat sat here.", "hello"]
    predictions = ["mister smith is color was 23", "a cat here", ""]
    scores = METRICS["wer"].score([row(n, text) for n, text in enumerate(references)], predictions).main
    assert scores[0].tolist() == [0.0, 6.0]
    corpus = jiwer.process_words(["a cat sat here", "hello"], ["a cat here", ""])
    assert ratio(scores[1:]) == pytest.approx(corpus.wer) == pytest.approx(2 / 5)


def test_wer_counts_insertions_into_a_silent_reference() -> None:
    pytest.importorskip("whisper_normalizer")
    assert word_errors("red dog", "uh") == (2.0, 0.0)
    assert word_errors("", "a") == (1.0, 1.0)
    assert word_errors("<|en|>hello", "Hello.") == (0.0, 1.0)


def test_cer_counts_characters_of_any_language() -> None:
    pytest.importorskip("whisper_normalizer")
    assert character_errors("今天天氣好", "今天天气很好。") == (2.0, 6.0)
    assert character_errors("", "ab") == (2.0, 2.0)
    assert character_errors("uh", "uh") == (0.0, 2.0)  # no word belongs to one language


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Hello  World", ("hello world",), 1.0),
        ("helo world", ("hello world",), 1 - 1 / 11),
        ("abcd", ("abxy",), 0.0),  # half would have to change
        ("abcde", ("abcxy",), 0.6),
        ("b", ("abc", "b"), 1.0),
        ("", ("",), 0.0),
    ],
)
def test_anls_is_the_similarity_to_the_nearest_answer_or_0(
    prediction: str, answers: tuple[str, ...], expected: float
) -> None:
    assert anls(prediction, answers) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prediction", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("B.", "B"),
        ("(B) dark red", "B"),
        ("**B**", "B"),
        ("B\nBecause it is dark.", "B"),
        ("\\boxed{B}", "B"),
        ("It must be B", "B"),
        ("The answer is B, not red", "B"),
        ("the answer is: (B), I think", "B"),
        ("First (A), then (B) it is", "B"),
        ("Between A. and B. it lies", "B"),
        ("Option B: so dark", "B"),
        ("Surely B) so dark", "B"),
        ("it is dark red, I think", "B"),
        ("The dark red!", "B"),
        ("A dog", "C"),  # begins with an article, and is an option
        ("vitamin c", "D"),
        ("Vitamin C", "D"),  # not the letter at its end
        ("A cat is there", None),
        ("a dog or red", None),
        ("E", None),
        ("E.g. a cat", None),
        ("A?", None),
        ("A. red\nB. dark red\nC. a dog\nD. Vitamin C", None),  # the options again
        ("A. red\nB. dark red\nC. a dog\nD. Vitamin C\nThe answer is C.", "C"),
        ("(A) red\n(B) dark red\nI say (B)", "B"),
        ("Options: A. red B. dark red C. a dog D. Vitamin C", None),
        ("A and B", None),
        ("A, B", None),
        ("(A) or (B)", None),
        ("Neither A nor B", None),
        ("none of A, B, C or D", None),
        ("not B", None),
        ("It is not (B)", None),
        ("The answer is not A", None),
        ("The answer is B, not C", "B"),
        ("A is wrong. The answer is B, since C", "B"),
        ("I do not know", None),
        ("", None),
    ],
)
def test_a_choice_is_read_or_unparsed_never_guessed(prediction: str, letter: str | None) -> None:
    assert read_choice(prediction, CHOICES) == letter


@pytest.mark.parametrize(
    ("prediction", "choices", "letter"),
    [
        ("15 A", ("1.5 A", "15 A", "3 A"), "B"),  # amperes
        ("The current is 3 A", ("2 A", "3 A", "4 A", "5 A"), "B"),
        ("5", ("-5", "6"), None),
        ("-5", ("-5", "5"), "A"),
        ("1.5", ("15", "3"), None),
        ("3.5", ("3.5", "35"), "A"),
        ("$1.50", ("$1.50", "$150"), "A"),
        ("It is 10:30.", ("1030", "10:30"), "B"),
        ("5/8", ("58", "5/8"), "B"),
        ("+", ("+", "-"), "A"),
    ],
)
def test_numbers_of_options_are_not_mistaken_for_others(
    prediction: str, choices: tuple[str, ...], letter: str | None
) -> None:
    assert read_choice(prediction, choices) == letter


def test_two_options_with_one_text_are_not_told_apart_by_it() -> None:
    assert read_choice("red", ("Red", "red", "blue")) is None


def test_an_unparsed_choice_is_wrong_and_counted() -> None:
    samples = [row(number, "A", choices=CHOICES) for number in range(4)]
    scores = METRICS["multiple_choice"].score(samples, ["A", "B", "who knows", ""])
    assert ratio(scores.main) == 0.25
    assert scores.unparsed.tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("prediction", "option"),
    [
        ("apple", "apple"),
        (" The Apple.", "apple"),
        ("<think>pear</think>apple", "apple"),
        ("red apple", None),  # more than the option
        ("an apple and a pear", None),
        ("not apple", None),
        ("A", None),  # a letter, where words are wanted
        ("", None),
    ],
)
def test_a_choice_in_words_is_the_whole_text_of_one_option_or_unparsed(prediction: str, option: str | None) -> None:
    sample = row(1, "apple", choices=("Apple", "green pear"))
    assert read_option(sample, prediction) == option
    scores = METRICS["multiple_choice"].score([sample], [prediction])
    assert (ratio(scores.main), scores.unparsed.tolist()) == (float(option == "apple"), [option is None])


def test_another_option_in_words_is_wrong_and_parsed() -> None:
    samples = [row(number, "Green pear", choices=("apple", "green pear"), group="g") for number in range(2)]
    scores = METRICS["circular"].score(samples, ["green pear", "apple"])
    assert {name: ratio(pairs) for name, pairs in scores.values.items()} == {"circular": 0.0, "accuracy": 0.5}
    assert not scores.unparsed.any()


def test_a_right_answer_that_is_a_letter_is_one_though_it_is_the_text_of_another_option() -> None:
    blood = row(1, "A", choices=("B", "A"))
    check_rows("multiple_choice", METRICS["multiple_choice"], [blood])
    assert read_option(blood, "(A)") == "A"


def test_rows_of_letters_and_of_words_are_read_each_in_its_own_way() -> None:
    samples = [row(1, "B", choices=("apple", "pear")), row(2, "pear", choices=("apple", "pear"))]
    assert ratio(METRICS["multiple_choice"].score(samples, ["B. pear", "pear"]).main) == 1
    assert ratio(METRICS["multiple_choice"].score(samples, ["pear", "B. pear"]).main) == 0.5


@pytest.mark.parametrize(
    ("reference", "choices", "problem"),
    [
        (
            "plum",
            ("apple", "pear"),
            "its text, one of ['apple', 'pear'] (one of A to Z alone is a letter); found 'plum'",
        ),
        ("pear", ("apple", "pear", "The Pear"), "'pear' and 'The Pear' are alike without case"),
    ],
)
def test_a_right_option_that_is_none_or_two_is_refused(reference: str, choices: tuple[str, ...], problem: str) -> None:
    with pytest.raises(EvaluationError, match=re.escape(problem)) as refused:
        check_rows("multiple_choice", METRICS["multiple_choice"], [row(3, reference, choices=choices)])
    assert "rows:3" in str(refused.value)


def test_a_question_is_right_if_all_its_rotations_are() -> None:
    samples = [row(number, "A", choices=CHOICES, group=str(number // 4)) for number in range(12)]
    predictions = ["A"] * 4 + ["A", "A", "A", "B"] + ["B"] * 4
    assert score("circular", samples, predictions) == pytest.approx({"circular": 1 / 3, "accuracy": 7 / 12})


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Yes", "yes"),
        ("yes, there is.", "yes"),
        ("No.", "no"),
        ("There is not.", "no"),
        ("Yes. It is not small.", "yes"),
        ("Yes\n\nIt is not small", "yes"),
        ("There is no dog, yes", "no"),
        ("Nothing", None),
        ("yesterday", None),
        ("A dog. Yes", None),
        ("", None),
    ],
)
def test_yes_and_no_are_read_from_the_first_sentence(prediction: str, answer: str | None) -> None:
    assert read_yes_no(prediction) == answer


@pytest.mark.parametrize(
    ("prediction", "answer"),
    [
        ("Answer: no\n\nYes, one might think.", "no"),
        ("Answer:\nYes\n\nIt is not small.", "yes"),
        ("**Answer:** Yes", "yes"),
        ("Let me see whether there is no dog. Answer: yes", "yes"),
        ("There is a dog. So the answer is yes, as it barks.", "yes"),
        ("I see no cat there. The final answer is \\boxed{\\text{Yes}}.", "yes"),
        ("Answer: yes ... wait. Answer: no", "no"),
        ("It barks. I do not think the answer is yes.", None),
        ("It barks. The answer is no doubt clear.", None),
        ("It barks. The answer is yes or no.", None),
        ("It barks. The answer is unknown.", None),
    ],
)
def test_a_stated_yes_or_no_comes_before_other_sentences(prediction: str, answer: str | None) -> None:
    assert read_yes_no(prediction) == answer


def test_popes_values_count_predictions_and_unparsed_as_wrong() -> None:
    references = ["yes", "yes", "yes", "no", "no", "no"]
    predictions = ["Yes", "no", "perhaps", "Yes", "no", "perhaps"]
    scores = METRICS["yes_no"].score([row(n, ref) for n, ref in enumerate(references)], predictions)
    expected = {"accuracy": 2 / 6, "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "yes_ratio": 2 / 6}
    assert {name: ratio(pairs) for name, pairs in scores.values.items()} == pytest.approx(expected)
    assert scores.unparsed.sum() == 2
    assert np.isnan(score("yes_no", [row()], ["no"])["precision"])


def test_mme_adds_accuracy_and_accuracy_of_whole_pictures() -> None:
    samples = [row(number, ("yes", "no")[number % 2], group=str(number // 2)) for number in range(6)]
    predictions = ["Yes", "No", "Yes", "Yes", "maybe", "No"]
    found = score("mme", samples, predictions)
    assert found == pytest.approx({"score": 100 * (4 / 6 + 1 / 3), "accuracy": 4 / 6, "accuracy_plus": 1 / 3})
    assert score("mme", samples, ["yes", "no"] * 3)["score"] == 200


def test_contains_asks_for_all_parts_of_an_answer_as_whole_words() -> None:
    assert contains("The red dog barks.", ("cat", "dog<AND>Red"))
    assert not contains("The red cat", ("dog<AND>red",))
    assert not contains("It costs 15.50", ("15", "5", "50", "costs 1"))
    assert contains("x = -1 or x=-5.", ("x=-5",))
    assert not contains("", ("",))
    assert not contains("-5", ("5",)) and not contains("5/8", ("5",)) and not contains("5/8", ("8",))
    assert contains("between 3-5 of them", ("5",)) and contains("It is -5.", ("-5",))


def test_thoughts_are_no_answer() -> None:
    assert without_thoughts("<think>a</think> b <think>\nc</think>d") == "b d"
    assert without_thoughts("<think>never ends") == ""


def lacking() -> dict[str, tuple[Sample, str]]:
    return {
        "vqa_accuracy": (row(3), "rows:3: metric vqa_accuracy needs 'answers', a list of the annotators' answers"),
        "anls": (row(3, "yes", " "), "rows:3: metric anls needs 'answers'"),
        "captions": (row(3, "yes", ""), "rows:3: metric captions needs 'answers'"),
        "contains": (row(3, "yes", ""), "rows:3: metric contains needs 'answers'"),
        "multiple_choice": (
            row(3, "C", choices=("a", "b")),
            "needs the right option as the reference: its letter, A to B, or its text",
        ),
        "circular": (row(3, "A", choices=("a", "b")), "needs 'group', the same text in all rotations"),
        "yes_no": (row(3, "perhaps"), "needs yes or no as the reference; found 'perhaps'"),
        "mme": (row(3), "needs 'group', the same text in both questions"),
    }


@pytest.mark.parametrize("name", lacking())
def test_a_row_that_lacks_something_is_named_before_anything_is_generated(name: str) -> None:
    sample, problem = lacking()[name]
    with pytest.raises(EvaluationError, match=re.escape(problem)):
        check_rows(name, METRICS[name], [sample])


def test_options_must_be_there_and_pictures_have_two_questions() -> None:
    with pytest.raises(EvaluationError, match=r"needs 'choices'.*found 0"):
        check_rows("multiple_choice", METRICS["multiple_choice"], [row(1, "A")])
    rows = [row(number, group=group) for number, group in enumerate("aabbb")]
    with pytest.raises(EvaluationError, match=r"rows:2: metric mme needs two questions.*group 'b' has 3"):
        check_rows("mme", METRICS["mme"], rows)
    check_rows("mme", METRICS["mme"], rows[:2])
    check_rows("exact_match", METRICS["exact_match"], rows)
