"""Denials and conditions in many languages: what stands with one is left unread, what is stated beside it is read."""

# ruff: noqa: RUF001 - marks of other scripts are meant
import pytest

from evaluation.metrics import read_choice

CHOICES = ("a red car", "a dog", "a cat", "a blue house")
DENIED = [
    "No es B",
    "La respuesta no es B",
    "La respuesta no puede ser B",
    "La risposta non è B",
    "A resposta não é B",
    "Ce n'est pas B",
    "La réponse n'est pas B",
    "答えはBではない",
    "答えはBではありません",
    "정답은 B가 아닙니다",
    "답: B 아님",
    "选B是错误的",
    "答案是B吗？",
    "Ответ не B",
    "Ответ: не B",
    "Het antwoord is niet B",
    "Svaret är inte B",
    "Odpowiedź nie B",
    "Odpověď není B",
    "Vastaus ei ole B",
    "Jawaban: bukan B",
    "Đáp án không phải B",
    "الإجابة ليست B",
    "Die Antwort ist keinesfalls B",
    "A - wrong",
    "The answer is hardly B",
    "The opposite of B is the answer",
    "There is no cat",
    "I don't see a cat",
    "no cat",
    "a cat? no",
    "without a cat",
    "The cat is missing",
    "It does not look like a cat",
    "a cat is not visible",
    "If there were a dog, the answer would be B",
    "La respuesta B no es correcta",
    "B ist nicht richtig",
    "Die Antwort B ist falsch",
    "B n'est pas correct",
    "Ответ B неверный",
    "B é incorreta",
    "A resposta B está errada",
    "Bは間違いです",
    "Bは正解ではありません",
    "B는 정답이 아닙니다",
    "B yanlış",
    "B salah",
    "B là sai",
    "Risposta B è sbagliata",
    "B é a resposta errada",
    "Svar B är fel",
    "B. Wrong.",
    "B, no.",
    "The answer is B? I doubt it.",
    "Je ne pense pas que la réponse soit B",
    "No creo que la respuesta sea B",
    "Ich glaube nicht, dass die Antwort B ist",
    "我不认为答案是B",
    "答案不可能是B",
    "Я не думаю, что ответ B",
    "Wenn es ein Hund wäre, wäre die Antwort B",
    "Si fuera un perro, la respuesta sería B",
    "Kein B",
    "nicht B",
    "niet B",
    "正解はBではないと思う",
    "The answer is B if a dog is there",
    "It would be wrong to say the answer is B",
    "nem B",
    "A válasz nem B",
    "Răspunsul nu este B",
    "उत्तर B नहीं है",
    "Η απάντηση δεν είναι B",
    "התשובה אינה B",
    "คำตอบไม่ใช่ B",
    "Cevap B değil",
    "Hayır, B değil",
]
STATED = [
    "答えはBではなくCです",
    "正解はBでなくC",
    "정답은 B가 아니라 C입니다",
    "答案是B吗？不，是C",
    "Cevap: B değil, C",
    "La respuesta correcta es C y no B",
    "答案不是B，而是C",
    "<think>The answer is B</think>\nC",
    "I do not see a dog so the answer is C",
    "The dog is not there and the answer is C",
    "C。",
    "C！",
    "（C）",
    "【C】",
    "C、猫",
    "C：猫",
    "Ｃ",
    "The answer is Ｃ",
    "选项C正确",
    "C选项正确",
    "A opção C está correta",
    "Option C ist korrekt",
    "Ich würde C sagen",
    "There is no doubt that the answer is C",
    "Although I'm not sure the answer is C",
    "Since it is not a dog the answer is C",
    "C fits best.",
    "C seems right",
    "C appears to be correct",
    "C it is",
    "C (not B)",
    "All options except C are wrong",
    "A: incorrect\nB: incorrect\nC: correct\nD: incorrect",
    "Die Antwort ist nicht B, sondern C",
    "Die Antwort ist C, nicht B",
    "Die Antwort ist C nicht B",
    "La réponse est C et non B",
    "Ответ C, а не B",
    "No es B, es C",
    "Cevap C, B değil",
    "正解はCです。Bではありません",
    "답은 C입니다",
    "It is not a dog. It is a cat.",
    "I see a cat, not a dog",
    "There is a cat and no dog.",
    "Nothing looks like a dog.\n\nC",
    "**C**",
    "C. a cat, because no dog is there",
    "The answer is C because there is no dog",
    "Jawaban: C, bukan B",
    "A - false\nB - false\nC - true\nD - false",
    "A - no, B - no, C - yes, D - no",
    "A – incorrect.\nC – correct.",
    "The answer would be B if a dog were visible, but it is C",
    "B would be the answer if there were a dog. There is none, so C.",
    "C over B",
    "There is no dog, so C",
]
OWN_TEXTS = [
    ("B. no", ("yes", "no"), "B"),
    ("The answer is no", ("yes", "no"), "B"),
    ("B: False", ("True", "False"), "B"),
    ("A. Yes, it is", ("Yes", "No"), "A"),
    ("No, there isn't", ("Yes", "No"), "B"),
    ("The answer is C, none of the above", ("x", "y", "none of the above"), "C"),
    ("Answer: C. No cat", ("x", "y", "No cat"), "C"),
    ("I think no cat is there", ("x", "y", "No cat"), "C"),
    ("(C) if it rains", ("x", "y", "if it rains"), "C"),
]
"""Options that deny something themselves."""


@pytest.mark.parametrize("said", DENIED)
def test_what_is_denied_asked_or_conditional_in_any_language_is_no_answer(said: str) -> None:
    assert read_choice(said, CHOICES) is None


@pytest.mark.parametrize("said", STATED)
def test_what_is_stated_beside_a_denial_is_read(said: str) -> None:
    assert read_choice(said, CHOICES) == "C"


@pytest.mark.parametrize(
    "said", ["B is more likely than C", "The correct answer was B in the last question, here it is C"]
)
def test_what_is_stated_of_another_question_or_by_halves_is_never_another_letter(said: str) -> None:
    assert read_choice(said, CHOICES) in ("C" if "question" in said else "B", None)


@pytest.mark.parametrize(("said", "choices", "letter"), OWN_TEXTS)
def test_options_that_deny_something_are_read(said: str, choices: tuple[str, ...], letter: str) -> None:
    assert read_choice(said, choices) == letter
