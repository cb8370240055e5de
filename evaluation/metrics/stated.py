"""Letters that an answer states: "Answer: B", "the correct option is (B)", "I would pick B", "B is right", "答案是B".

What is stated counts before anything else that the answer holds. Nothing is guessed: a letter that is denied ("not B",
"B is wrong", "I do not think the answer is B"), asked ("is it B?") or named beside another ("A or B") is none.
"""

# ruff: noqa: RUF001 - marks of other scripts are meant
import re

from .denied import AFTER, BEFORE, BEFORE_JOINED, DENIAL, is_denied, is_spoiled

SEVERAL = "\0"
"""Stands in a text for letters that are named side by side."""

_OPEN = r"""(?:[\s*_`"'$(\[{<「『【（“”‘’]|\\(?:boxed|text|textbf|mathrm|mathbf)\s?\{|\\[(\[]){0,12}"""
_CLOSE = r"""[\s*_`"'$)\]}>」』】）“”‘’]{0,8}"""
_BEGINS = r"(?<![A-Za-zÀ-ɏЀ-ӿ0-9_'’])"
_ENDS = r"(?![A-Za-zÀ-ɏЀ-ӿ0-9_])(?!['’.-][A-Za-z])(?![+#])(?!\s?=)"
_ARTICLE = r"(?!(?<=[AI])\s{1,4}(?!(?:as|because|based|due|for|given|since)\b)[a-z])"
"""What may not follow an A or an I: "A dog" begins with an article."""
_CAPITAL = rf"(?P<letter>[A-Z\0]){_ENDS}{_ARTICLE}"
_SMALL = rf"""(?P<letter>[A-Z\0]{_ENDS}{_ARTICLE}|[a-z]{_ENDS}(?=\s{{0,4}}(?:[.,;:)\]}}*"'<\n]|\Z)))"""
_LINK = (
    r"(?:\s{0,4}(?:\b(?:is|was|would|must|should|has\s+to|be|ist|lautet|wäre|es|est|è|é)\b"
    r"|应该|应該|应|應|是|为|為|は|은|는|[:：=>→–—]|[-=]>|-)){1,4}"
)
_FILL = (
    r"(?:\s{0,4}(?:\b(?:option|choice|letter|alternative|number|clearly|therefore|thus|definitely|probably|likely"
    r"|most|simply|actually|indeed|the|Antwort|opción|opção|réponse|(?-i:la|a))\b|选项|選項)){0,4}"
)
_ABOUT = (
    r"(?:\s{1,4}(?:choice|option|letter|key|correct[aeo]?|corrett[ao]|corret[ao])s?)?(?:\s{1,4}(?:to|for|of)(?:\s{1,4}\w{1,30}){1,4}?)?"
    r"""[*_"'`)\]\s]{0,4}"""
)
_ANSWER = (
    r"(?:\b(?:answer|ans|solution|antwort|lösung|respuesta|réponse|reponse|risposta|resposta|ответ|odpowiedź|odpověď"
    r"|jawaban|cevap|đáp\s+án|उत्तर)|الجواب|الإجابة|答案|答え|正解|回答|정답|답안|답)"
)
_OPTION = r"(?:\b(?:option|choice|letter|alternative|selection|pick|opción|opção|opzione)|选项|選項)"
_CHOOSE = (
    r"(?:\b(?:I|we)\b[^.!?,;:\n]{0,30}?\b(?:pick|choose|chose|select|say|take|guess|answer|(?:go|went|going)\s{1,4}with"
    r"|(?:opt|vote)\s{1,4}for)(?:ed)?\b|(?:\A|(?<=[.!?\n]))\s{0,4}(?:pick|choose|select|go\s{1,4}with)\b"
    r"|\b(?:it|this|that)(?:['’]s|\s{1,4}(?:is|(?:must|should|would|has\s{1,4}to)\s{1,4}be))\b|\b(?:ich\b[^.!?,;:\n]{0,20}?\b(?:würde|wähle|nehme|sage|tippe)(?:\s{1,4}(?:auf|für))?|je\s{1,4}choisis"
    r"|elijo|escolho|scelgo|выбираю|wybieram|ik\s{1,4}kies|jag\s{1,4}väljer)\b|\b(?:so|thus|therefore|hence)\b(?=\s{1,4}"
    r"[(*]{0,3}[A-Z][)*]{0,3}\s{0,4}(?:[.!,;\n]|\Z))|而?是(?=\s{0,4}[A-Z](?![\w.]))|故?[选選](?:[择擇])?)"
)
_IS = (
    r"\s{0,4}(?:\b(?:is|was|seems|appears|looks|(?:would|must|should|seems\s{1,4}to|appears\s{1,4}to)\s{1,4}be|ist|es|est"
    r"|está|é|è|är|er|jest|je)\b|是)\s{0,4}"
)
_RIGHT = (
    r"(?:the\s{1,4})?(?:\w{1,20}\s{1,4})?(?:correct|right|best|answer|true|richtig|korrekt|correct[ao]?|corrett[ao]|corret[ao]"
    r"|exacte|juist|rätt|rigtigt?|riktig|poprawn[aey]|správn[áéě]|正确|正確|对|對)"
)

_STATEMENTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"{_ANSWER}{_ABOUT}{_LINK}{_FILL}[:：]?{_OPEN}(?-i:{_SMALL})"
        rf"|\\(?:boxed|fbox)\s?\{{{_OPEN}(?-i:(?P<boxed>[A-Z\0]){_ENDS})",
        rf"{_OPTION}{_ABOUT}{_LINK}{_FILL}[:：]?{_OPEN}(?-i:{_SMALL})",
        rf"{_CHOOSE}{_FILL}[:：]?{_OPEN}(?-i:{_CAPITAL})",
        rf"{_BEGINS}(?-i:{_CAPITAL}){_CLOSE}(?:{_IS}{_RIGHT}"
        r"|\s{1,4}(?:fits\s{1,4}best|it\s{1,4}is(?=\s{0,4}(?:[.!,;]|\Z)))|(?:选项|選項)?(?:正确|正確))",
    )
)
"""Ways of stating a letter, the plainest first."""
_IN_WORDS = re.compile(rf"{_ANSWER}{_ABOUT}{_LINK}\s{{0,4}}(?P<rest>[^.!?\n。]{{1,400}})", re.IGNORECASE)
_YES_OR_NO = re.compile(
    rf"(?:{_ANSWER}{_ABOUT}{_LINK}{_FILL}[:：]?{_OPEN}|\\(?:boxed|fbox)\s?\{{{_OPEN})(?P<word>yes|no)\b"
    rf"(?={_CLOSE}(?:[.,;:!\n–—-]|\Z|\b(?:as|because|it|since|there|this)\b))",
    re.IGNORECASE,
)
_MENTION = re.compile(
    rf"(?:{_OPTION}{_OPEN}(?-i:(?P<option>[A-Z\0]){_ENDS})|{_ANSWER}{_OPEN}(?-i:{_CAPITAL})"
    rf"|\*\*\(?(?-i:(?P<bold>[A-Z\0]))[.:)]{{0,2}}\*\*)(?P<alone>{_CLOSE}(?:[,.:;\n–—-]|\Z|\b(?:because|since|as|and\s{{1,4}}no)\b))?",
    re.IGNORECASE,
)
"""An option that is named; `alone` where the sentence does not go on to say what it does."""
_DENIED = (
    r"(?i:\b(?:(?:not|cannot|\w{1,20}n['’]t|never)(?:\s{1,4}(?:be|pick|choose|say))?|rather\s{1,4}than"
    r"|instead\s{1,4}of|except|unlike|rul(?:e[sd]?|ing)\s{1,4}out|(?:eliminat|exclud|reject|discard|avoid)\w{0,3}"
    r"|disagree\s{1,4}with|(?:anything|all|any)\s{1,4}but)(?:\s{1,4}the)?(?:\s{1,4}(?:option|choice|letter|answer))?)"
    r"\s{1,4}"
)
"""Right before a letter."""
_DENIED_AFTER = (
    r"(?i:(?:,?\s{0,4}(?:but|which|and|it|that|this|however)){0,3}\s{0,4}(?:\b(?:is|was|seems|looks|ist|est|es)"
    r"(?:n['’]t\b|\s{1,4}(?:(?:the|an?|\w{1,20}ly)\s{1,4})?(?:not|never|wrong|incorrect|false|out|impossible|unlikely"
    r"|excluded|ruled|nicht|falsch|pas|incorrecta?)\b)"
    r"|\b(?:can|could|does|would|may|might|must|should)(?:not\b|n['’]t\b|\s{1,4}not\b)|不|[错錯]))"
)
_JOINED = (
    r"\s{0,4}(?:,\s{0,4}(?i:(?:and|or)\b)?|/|&|(?i:\b(?:and|or|nor|oder|und|ou|y)\b)|或者?|和|、)"
    r"\s{0,4}(?i:(?:maybe|perhaps|possibly|even|option)\s{1,4})?"
)
_NEGATED = (
    rf"(?i:(?:\b(?:{BEFORE})(?:\s{{1,4}}(?:be|es|está|est|é|è|ist|is|är|er|to|jest|je|ole|phải))?"
    rf"(?:\s{{1,4}}(?:la|le|el|l[ao]|the|die|de|option|opción|letter))?|\b(?:opposite\s{{1,4}}of|over|than))\s{{1,4}}"
    rf"|(?:{BEFORE_JOINED})\s{{0,4}}(?:选项|選項)?)"
)
"""Right before a letter, in many languages."""
_ASKED = (
    r"\s{0,4}(?:[吗嗎]\s{0,4}\??|ですか|인가요|입니까|\?)[\s,]{0,4}(?i:(?:no|nein|non|nee|нет|不|いいえ|아니요?)"
    r"\b[,，]?)?"
)
_NO = (
    r"(?:false|wrong|incorrect|no|not\s{1,4}(?:true|right|correct|it)|falsch|nein|falso|faux|incorrecta?|errad[oa]"
    r"|неверно|[错錯]误?|不[对對]|✗|❌|✘)"
)
_YES = r"(?:true|right|correct|yes|richtig|ja|korrekt|correcta?|corret[oa]|vrai|верно|正确|正確|[对對]|✓|✔|✅)"
_ONLY = (
    r"(?i:\b(?:all|every\w{0,6}|others?)\b[^.!?\n]{0,30}?\b(?:except|but)(?:\s{1,4}(?:for|option))?)\s{1,4}(?P<only>LETTER)"
    r"\s{1,4}(?i:(?:is|are|can\s{1,4}be|were)\s{1,4}(?:wrong|incorrect|false|excluded|eliminated|ruled\s{1,4}out))\b"
)


def without_denied(text: str, letters: str) -> str:
    """Remove letters that are denied or asked, and put `SEVERAL` for letters that are named side by side.

    Args:
        text: An answer.
        letters: Of the options.
    """
    letter = rf"[*(\[]{{0,3}}{_BEGINS}[{letters}]{_ENDS}[*)\]]{{0,3}}"
    other = rf"{letter}(?!(?<=A)\s{{1,4}}(?!(?:and|or|nor|is|are)\b)[a-z])"
    joined = rf"(?:{_JOINED}{other})"
    text = re.sub(_ONLY.replace("LETTER", letter), r"the answer is \g<only>", text)
    text = _with_verdicts(text, letters)
    text = re.sub(rf"{letter}{_CLOSE}(?:{AFTER})[,、]?", "", text)
    text = re.sub(rf"(?:{_DENIED}|{_NEGATED}){letter}(?:(?!\s*,){joined})*", "", text)
    text = re.sub(rf"{letter}{joined}+", lambda found: _several(found[0], letters), text)
    text = re.sub(rf"(?i:\bnor)\s{{1,4}}{letter}|{letter}{_CLOSE}(?:{_DENIED_AFTER}|{_ASKED})", "", text)
    for pattern in (*_STATEMENTS, _MENTION) if "?" in text or DENIAL.search(text) else ():
        text = pattern.sub(lambda found: "" if _is_spoiled(found) else found[0], text)
    return re.sub(r"\(\s*(?:\)|\Z|(?=[.,;\n]))", "", text)


def _with_verdicts(text: str, letters: str) -> str:
    """Remove lines such as "A: wrong"; "B: right" is stated."""
    verdict = (
        rf"{_BEGINS}(?P<letter>[{letters}])[*)\]]{{0,3}}\s{{0,4}}[:.)→=–—(-]\s{{0,4}}"
        rf"(?i:(?P<no>{_NO})|(?P<yes>{_YES}))(?!\w)(?=\s{{0,4}}(?:[.,;:!\n)]|\Z))"
    )
    right = {found["letter"] for found in re.finditer(verdict, text) if found["yes"]}
    stated = f"\nThe answer is {right.pop() if len(right) == 1 else SEVERAL}\n"
    return re.sub(verdict, lambda found: stated if found["yes"] else "", text)


def _several(named: str, letters: str) -> str:
    """Return `SEVERAL`, or what was named if it is one letter twice."""
    return SEVERAL if len({*named} & {*letters}) > 1 else named


def _is_spoiled(found: re.Match[str]) -> bool:
    """Tell whether the clause of a statement denies it."""
    return is_spoiled(found.string, found.start(), found.start(_group(found)), found.end(_group(found)))


def read_stated(text: str, letters: str) -> tuple[str | None, bool]:
    """Read the letter that a text states, and whether anything was stated: also a letter of no option, or several.

    Of the plainest way in which something is stated the last counts; of options that are only mentioned, such as in
    "Option B, since...", the only one.

    Args:
        text: Of `without_denied`.
        letters: Of the options.
    """
    for pattern in _STATEMENTS:
        if said := [_name(found) for found in pattern.finditer(text)]:
            return (said[-1] if said[-1] in letters else None), True
    mentions = [(_name(found), found["alone"]) for found in _MENTION.finditer(text)]
    named = {name for name, _ in mentions}
    if len(named) == 1 and named <= {*letters} and any(alone is not None for _, alone in mentions):
        return named.pop(), True
    return None, SEVERAL in named


def _name(found: re.Match[str]) -> str:
    return found[_group(found)].upper()


def _group(found: re.Match[str]) -> str:
    """Name the group that holds the letter."""
    return next(name for name, text in found.groupdict().items() if text is not None and name != "alone")


def stated_texts(text: str) -> list[str]:
    """Find what follows "Answer:" or "the answer is", up to the end of the sentence, where it is no letter."""
    return [
        found["rest"] for found in _IN_WORDS.finditer(text) if not is_denied(text, found.start(), found.start("rest"))
    ]


def stated_yes_or_no(text: str) -> str | None:
    """Find the last `yes` or `no` after "Answer:", "the answer is" and the like; None if there is none."""
    said = [
        found["word"].lower()
        for found in _YES_OR_NO.finditer(text)
        if not is_denied(text, found.start(), found.start("word"))
    ]
    return said[-1] if said else None


__all__ = ["SEVERAL", "read_stated", "stated_texts", "stated_yes_or_no", "without_denied"]
