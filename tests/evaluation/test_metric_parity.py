"""Every metric equals a slow reference (`metric_oracle.py`) on generated predictions, to 1e-6.

On 400 for each metric; on 2,000 in the slow tier.
"""

import re
from collections.abc import Callable
from typing import Any

import metric_oracle as oracle
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from evaluation.metrics import METRICS, normalise_vqa_answer, ratio, read_choice, read_yes_no
from evaluation.metrics.tokenisers import plain
from evaluation.tasks import Sample

SET = 25
CLOSE = 1e-6
VOCABULARY = """
    a an the A The red dark car dog's Dog café naïve Straße 今天 漢字 Ελλάδα İstanbul 😀 one Two none zero TEN 1 2.5
    1,000 $5.00 3. .5 dont don't couldnt've somebody'd somebodyd twas shes he's t-shirt co-op yes no not Yes No. Not,
    isn't yes! yesterday know B C D (A) B. C: D) answer is Answer: <think> </think> option \u2013 \u2014 … \u2019s ü
"""
STATING = re.compile(r"answer|option|\bis\b|n['\u2019]?t\b|\b(?:not|no|none|yes)\b|true|false|\?", re.IGNORECASE)
WORDS = VOCABULARY.split()
MARKS = st.sampled_from(["", "", "", "", ".", ",", "!", "?", ";", ":", "'", '"', ")", "-", "..", "/"])
SPACES = st.sampled_from([" ", " ", " ", "  ", "\n", "\t", "\u00a0", ""])
word = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), st.text(max_size=4), st.text("abAB .'0", max_size=5))
text = st.lists(st.tuples(MARKS, word, MARKS, SPACES).map("".join), max_size=5).map("".join)
letter = st.sampled_from("ABCDE")
quiet = text.map(lambda said: STATING.sub(" red ", said))
"""Texts that state, ask and deny nothing by themselves: test_stated.py and test_denied.py have what does."""


@st.composite
def near(draw: Callable[..., Any], answer: str) -> str:
    """The answer; nearly the answer; now and then something else."""
    kind = draw(
        st.sampled_from(["same", "other", "case", "drop", "swap", "article", "mark", "space", "empty", "around"])
    )
    place = draw(st.integers(0, max(0, len(answer) - 1)))
    return {
        "same": answer,
        "other": draw(text) if kind == "other" else "",
        "case": answer.swapcase(),
        "drop": answer[:place] + answer[place + 1 :],
        "swap": answer[:place] + "x" + answer[place + 1 :],
        "article": f"the {answer}",
        "mark": answer + ".",
        "space": f" {answer[:place]} {answer[place:]}\n",
        "empty": draw(st.sampled_from(["", " ", ".", "?!", "\n"])) if kind == "empty" else "",
        "around": f"It is {answer}, I think" if place % 2 else f"<think>{answer}?</think>{answer}",
    }[kind]


def sets_of(row: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(row, min_size=SET, max_size=SET)


@pytest.fixture(params=[400, pytest.param(2000, marks=pytest.mark.slow)])
def most(request: pytest.FixtureRequest) -> int:
    """How many rows are compared."""
    return int(request.param)


def compare(rows: st.SearchStrategy[list[Any]], agree: Callable[[list[Any]], None], most: int) -> None:
    """Run a comparison on sets of generated rows, and see to it that there were enough."""
    seen = 0
    quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]

    @settings(
        max_examples=most // SET,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=quiet,
    )
    @given(rows)
    def run(drawn: list[Any]) -> None:
        nonlocal seen
        seen += len(drawn)
        agree(drawn)

    run()
    assert seen >= most


def sample(number: int, reference: str, answers: list[str] | None = None, **fields: Any) -> Sample:
    return Sample(str(number), (), reference, tuple(answers or [reference]), str(number), **fields)


def row_values(metric: str, samples: list[Sample], predictions: list[str]) -> np.ndarray:
    return METRICS[metric].score(samples, predictions).main[:, 0]


def values(metric: str, samples: list[Sample], predictions: list[str]) -> dict[str, float]:
    return {name: ratio(pairs) for name, pairs in METRICS[metric].score(samples, predictions).values.items()}


with_near = text.flatmap(lambda answer: st.tuples(st.just(answer), near(answer)))


def test_exact_match(most: int) -> None:
    texts: list[str] = []

    def agree(rows: list[tuple[str, str]]) -> None:
        found = row_values("exact_match", [sample(n, true) for n, (true, _) in enumerate(rows)], [r[1] for r in rows])
        assert found.tolist() == [oracle.exact_match(given, true) for true, given in rows]
        texts.extend(said for row in rows for said in row)

    compare(sets_of(with_near), agree, most)
    everything = "".join(texts)  # holds what metrics stumble over
    assert any(not said.strip() for said in texts) and {"\n", "今"} <= set(everything)
    assert set("0125") <= set(everything) and set(",.!?'\"-") <= set(everything)


@st.composite
def annotated(draw: Callable[..., Any]) -> tuple[list[str], str]:
    """Ten annotators around two answers, and a prediction near the first."""
    first, second = draw(text), draw(text)
    answers = [
        draw(st.sampled_from([first, first, second, first.upper(), f"a {first}", f"{second}."])) for _ in range(10)
    ]
    return answers, draw(near(first))


def test_vqa_accuracy_and_the_evalai_normaliser(most: int) -> None:
    def agree(rows: list[tuple[list[str], str]]) -> None:
        samples = [sample(n, "", answers) for n, (answers, _) in enumerate(rows)]
        found = row_values("vqa_accuracy", samples, [given for _, given in rows])
        assert found == pytest.approx([oracle.vqa_accuracy(given, answers) for answers, given in rows], abs=CLOSE)
        for answers, prediction in rows:
            for said in (prediction, answers[0]):
                ours, published = normalise_vqa_answer(said), oracle.evalai(said)
                assert ours == published or "somebody" in said.lower()  # the table's one entry that is upside down

    compare(sets_of(annotated()), agree, most)


def test_anls(most: int) -> None:
    row = st.tuples(text, text).flatmap(lambda answers: st.tuples(st.just(answers), near(answers[0])))

    def agree(rows: list[tuple[tuple[str, str], str]]) -> None:
        samples = [sample(n, "", list(answers)) for n, (answers, _) in enumerate(rows)]
        found = row_values("anls", samples, [given for _, given in rows])
        assert found == pytest.approx([oracle.anls(given, list(answers)) for answers, given in rows], abs=CLOSE)

    compare(sets_of(row), agree, most)


def quiet_or_around(said: str) -> str:
    """A text that states nothing, but for "It is ...", around an option."""
    rest = said.removeprefix("It is ")
    return said[: len(said) - len(rest)] + STATING.sub(" red ", rest)


@st.composite
def asked(draw: Callable[..., Any]) -> tuple[list[str], str, str]:
    """Options, the right letter, and an answer in one of the ways in which models answer."""
    option = st.one_of(
        st.sampled_from(["red", "dark red", "a dog", "A cat", "Type B", "3.5", "35", "C", "none of them"]), quiet
    )
    choices = draw(st.lists(option, min_size=2, max_size=5))
    right, said = draw(letter), draw(letter)
    other, near_option = draw(quiet), draw(near(draw(st.sampled_from(choices))).map(quiet_or_around))
    forms = [
        "{0}",
        "{0}.",
        "({0})",
        "{0}: {1}",
        "{1} {0}",
        "The answer is {0}",
        "answer is: ({0}) {1}",
        "Answer: {0}\n\n{1}",
        "**Answer:** {0}, {1}",
        "Answer: {0} or B",
        "{1} ({0}) {1}",
    ]
    forms += [
        "{1} {0}. {1}",
        "{1} {0}) {1}",
        "**{0}**",
        "{0} {1}",
        "{1}",
        "{2}",
        "I say {2}",
        "{0}\n{1}",
        "{0}.{1}",
        "{1}{0}",
        "A. {1}\nB. {1}\n{0}. {1}\nThe answer is {0}",
        "A and {0}",
        "not {0}",
        "{1} or {0}",
        "3 {0}",
    ]
    form = draw(st.sampled_from(forms))
    given = form.format(draw(st.sampled_from([said, said.lower()])), other, near_option)
    return (
        choices,
        right,
        re.sub("[?\uff1f\u061f\u037e]", " ", given),
    )  # what is asked is no answer, see test_denied.py


def test_multiple_choice(most: int) -> None:
    def agree(rows: list[tuple[list[str], str, str]]) -> None:
        samples = [sample(n, right, choices=tuple(choices)) for n, (choices, right, _) in enumerate(rows)]
        scores = METRICS["multiple_choice"].score(samples, [given for *_, given in rows])
        letters = [oracle.choice(given, choices) for choices, _, given in rows]
        assert [read_choice(given, choices) for choices, _, given in rows] == letters
        assert scores.main[:, 0].tolist() == [
            letter == right for letter, (_, right, _) in zip(letters, rows, strict=True)
        ]
        assert scores.unparsed.tolist() == [letter is None for letter in letters]

    compare(sets_of(asked()), agree, most)


def test_circular_eval(most: int) -> None:
    choices = ("red", "dark red", "a dog", "cat")
    row = st.tuples(
        st.integers(0, 9).map(str), st.sampled_from(["A", "A", "A", "A", "B", "A dog", "(A)", "red", "hm", ""])
    )

    def agree(rows: list[tuple[str, str]]) -> None:
        samples = [sample(n, "A", choices=choices, group=group) for n, (group, _) in enumerate(rows)]
        found = values("circular", samples, [given for _, given in rows])
        right = [oracle.choice(given, list(choices)) == "A" for _, given in rows]
        expected = {
            "circular": oracle.circular(right, [group for group, _ in rows]),
            "accuracy": sum(right) / len(right),
        }
        assert found == pytest.approx(expected, abs=CLOSE)

    compare(sets_of(row), agree, most)


yes_or_no = st.sampled_from(["yes", "no"])
unanswering = text.filter(lambda said: "answer" not in said.lower())
polar = st.one_of(
    st.sampled_from(["Yes", "No", "yes.", "no, it is", "Yes! not", "There is not", "maybe", ""]),
    unanswering,
    st.tuples(unanswering, yes_or_no, unanswering).map(" ".join),
)


def test_pope(most: int) -> None:
    def agree(rows: list[tuple[str, str]]) -> None:
        references, predictions = map(list, zip(*rows, strict=True))
        found = values("yes_no", [sample(n, true) for n, true in enumerate(references)], predictions)
        expected = oracle.pope(predictions, references)
        assert list(found) == list(expected)
        for name, value in expected.items():
            assert np.isnan(found[name]) if value is None else found[name] == pytest.approx(value, abs=CLOSE)
        assert [read_yes_no(given) for given in predictions] == [oracle.yes_no(given) for given in predictions]

    compare(sets_of(st.tuples(yes_or_no, polar)), agree, most)


def test_mme(most: int) -> None:
    def agree(rows: list[tuple[str, str, str]]) -> None:
        references = ["yes", "no"] * len(rows)
        predictions = [given for _, *both in rows for given in both]
        pictures = [str(number // 2) for number in range(len(predictions))]
        samples = [sample(n, true, group=pictures[n]) for n, true in enumerate(references)]
        expected = oracle.mme(predictions, references, pictures)
        assert values("mme", samples, predictions)["score"] == pytest.approx(expected, abs=CLOSE)

    compare(sets_of(st.tuples(st.just(""), polar, polar)), agree, most)


def test_wer_and_cer(most: int) -> None:
    english = pytest.importorskip("whisper_normalizer.english").EnglishTextNormalizer()
    basic = pytest.importorskip("whisper_normalizer.basic").BasicTextNormalizer()
    spoken = st.lists(word, min_size=1, max_size=8).map(" ".join)

    def agree(rows: list[tuple[str, str]]) -> None:
        samples, predictions = [sample(n, true) for n, (true, _) in enumerate(rows)], [given for _, given in rows]
        for metric, normaliser, units in (
            ("wer", english, str.split),
            ("cer", basic, lambda text: list(text.strip())),
        ):
            given, true = (
                [units(normaliser(text)) for text in texts] for texts in (predictions, [r[0] for r in rows])
            )
            if any(true):
                found = values(metric, samples, predictions)[metric]
                assert found == pytest.approx(oracle.error_rate(given, true), abs=CLOSE)

    compare(sets_of(spoken.flatmap(lambda true: st.tuples(st.just(true), near(true)))), agree, most)


CAPTION_WORDS = ["a", "the", "man", "woman", "dog", "rides", "eats", "red", "horse", "on", "beach", "near", "café"]
caption = st.lists(st.sampled_from(CAPTION_WORDS), min_size=1, max_size=9).map(" ".join)


@st.composite
def described(draw: Callable[..., Any]) -> tuple[list[str], str]:
    references = draw(st.lists(caption, min_size=1, max_size=5))
    kind = draw(st.sampled_from(["same", "other", "mixed", "empty"]))
    mixed = references[0].split()[:4] + references[-1].split()[2:]
    return references, {"same": references[0] + ".", "other": draw(caption), "mixed": " ".join(mixed), "empty": ""}[
        kind
    ]


@pytest.mark.usefixtures("no_java")
def test_captions(most: int) -> None:
    pytest.importorskip("pycocoevalcap")
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    def agree(rows: list[tuple[list[str], str]]) -> None:
        samples = [sample(n, "", references) for n, (references, _) in enumerate(rows)]
        scores = METRICS["captions"].score(samples, [given for _, given in rows])
        assert list(scores.values) == ["cider_d", "bleu_4", "rouge_l"]
        given = {n: [plain(text)] for n, (_, text) in enumerate(rows)}
        true = {n: [plain(text) for text in references] for n, (references, _) in enumerate(rows)}
        assert ratio(scores.main) == pytest.approx(Cider().compute_score(true, given)[0], abs=CLOSE)
        published = Bleu(4).compute_score(true, given, verbose=0)[0][3]
        assert ratio(scores.values["bleu_4"]) == pytest.approx(published, abs=CLOSE)
        assert ratio(scores.values["rouge_l"]) == pytest.approx(Rouge().compute_score(true, given)[0], abs=CLOSE)
        words = [given[n][0].split() for n in given]
        references = [[text.split() for text in true[n]] for n in true]
        assert scores.main[:, 0] == pytest.approx(oracle.cider_d(words, references), abs=CLOSE)
        if (expected := oracle.bleu_4(words, references)) > 0:  # pycocoevalcap writes about 1e-4 for none
            assert ratio(scores.values["bleu_4"]) == pytest.approx(expected, abs=CLOSE)
        expected_rows = [
            oracle.rouge_l(given, own) if given else 0.0 for given, own in zip(words, references, strict=True)
        ]
        assert scores.values["rouge_l"][:, 0] == pytest.approx(expected_rows, abs=CLOSE)

    compare(sets_of(described()), agree, most)
