"""What denies, asks or makes conditional: words of many languages, and the clause around what an answer names.

What stands in one clause with a denial or a condition that nobody has understood is not taken: to leave an answer
unread costs less than to read another one.
"""

# ruff: noqa: RUF001 - marks of other scripts are meant
import re

BEFORE = (
    r"not|nor|neither|never|cannot|hardly|scarcely|barely|nicht|kein\w{0,2}|keines(?:falls|wegs)|niemals|nie|weder|kaum"
    r"|pas|jamais|aucune?|ni|nunca|jamás|tampoco|ningun[oa]?|ningún|nem|nenhuma?|nessun[oa]?|no|non|não|né|niet|geen"
    r"|nooit|inte|inga?|ikke|ikkje|aldri[gk]?|не|нет|ни|нельзя|ні|nie|není|nejsou|nikdy|ne|nu|nije|nisu|nebūtų|ei|eivät"
    r"|bukan|tidak|không|chẳng|δεν|όχι|μην|לא|אינה?|ليست?|لا|غير|hindi|si|hapana|sio"
)
"""Words that deny what follows them."""
BEFORE_JOINED = r"不(?:是|为|為|选|選|应|應)?|并非|並非|没有?|沒有?|非(?!常)|ไม่(?:ใช่)?"
"""The same in scripts without spaces."""
AFTER = (
    r"(?:(?:가|이|는|은)\s{0,4})?(?:아니라|아니고|아니며|아닌|아님|아닙니다|아니다|아니에요)"
    r"|(?:では|じゃ|で)(?:なく(?:て)?|ない|ありません|あらず)"
    r"|\s{1,4}(?:değil(?:dir)?|नहीं)|(?:是|为|為)?不[对對]|(?:是)?[错錯]误?的?"
)
"""What denies the letter right before it."""
_WORDS = (
    r"nothing|nobody|nowhere|none|nope|doubt\w{0,3}|impossible|unlikely|wrong\w{0,2}|incorrect\w{0,2}|false|mistaken"
    r"|missing|absent|lack(?:s|ing)?|without|instead|excluded?|ruled\s{1,4}out|invalid|invisible|opposite"
    r"|(?:is|are|was|were|do|does|did|has|have|had|ca|wo|would|could|should|must)nt|\w{1,20}n['’]t|n['’](?:est|a|y)"
    r"|nein|nicht\w|falsche?[nrsm]?|unmöglich|ohne|fehlt|fehlen|faux|fausse|sans|falsos?|falsas?|sin|errad[oa]"
    r"|equivocad[oa]|incorret[oa]|incorrett[oa]|sbagliat[oa]|senza|sem|falta|zonder|nee|fout|onjuist|nej|fel\w{0,4}"
    r"|forkert\w?|feil|utan|uden|uten|väärä\w?|без|неверн\w{1,4}|неправильн\w{1,4}|ошиб\w{1,8}|bez|błędn\w{1,3}"
    r"|niepoprawn\w{1,3}|nieprawidłow\w{1,3}|špatn\w{1,2}|nesprávn\w{1,3}|rossz|helytelen|salah|tanpa|sai|yanlış\w{0,4}"
    r"|hayır|yok|değil\w{0,4}|गलत|नहीं|خطأ|خاطئة?|λάθος|שגוי"
)
_JOINED = (
    r"不|没|沒|[并並]非|非(?!常)|[错錯誤]|吗|嗎|ない|なく|ません|違[うい]|아니|아닙|아닌|아님|않"
    r"|없|틀[렸리린]|못|ไม่|ผิด"
)
_IF = (
    r"\b(?:if|whether|unless|suppos(?:e|ing)|assuming|provided|wenn|falls|sofern|ob|cuando|si|sí\s{1,4}es|se|caso|als"
    r"|indien|om|hvis|dersom|если|ли|якщо|jeśli|jeżeli|pokud|kdyby|jestli|jos|jika|kalau|apabila|nếu|eğer|ha|अगर|यदि"
    r"|إذا|لو|εάν|αν|אם|in\s{1,4}the\s{1,4}(?:last|previous|other|next|first)|would\s{1,4}have\s{1,4}been)\b"
    r"|如果|若|假如|もし|なら|만약|라면|ถ้า"
)
CONDITION = re.compile(_IF, re.IGNORECASE)
DENIAL = re.compile(rf"\b(?:{BEFORE}|{_WORDS})\b|{_JOINED}|{_IF}", re.IGNORECASE)
"""Anything that denies or makes conditional."""
_SURE = re.compile(
    r"\b(?:(?:there\s{1,4}(?:is|can\s{1,4}be)\s{1,4})?(?:no|without(?:\s{1,4}an?y?)?)\s{1,4}doubts?|not\s{1,4}only"
    r"|no\s{1,4}question|undoubtedly|(?:al)?though\s{1,4}(?:i\s{1,4}am|i['’]m)\s{1,4}not\s{1,4}(?:\w{1,20}\s{1,4})?"
    r"(?:sure|certain))\b(?!\s{1,4}(?:is\s{1,4})?clear)|没错|沒錯|不错|间違いなく|間違いなく|no\s{1,4}hay\s{1,4}duda",
    re.IGNORECASE,
)
"""Denials that affirm."""
_MARKS = r",(?!\d|\s{0,4}(?:что|dass|daß|że|že|hogy|att|at|dat|that|que)\b)|[.:](?!\d)|[!?;\n。，；！？：、]|\s[-–—]\s"
_TURNS = (
    r"\b(?:but|so|therefore|thus|hence|however|sondern|sino|pero|mas|mais|donc|ma|bensì|maar|men|utan|но|поэтому|ale|lecz"
    r"|vaan|tetapi|melainkan|mà)\b|而是|所以|因此"
)
_REASONS = (
    r"\b(?:because|since|as|while|whereas|although|though|given|over|weil|denn|da|porque|pues|car|perché|parce|omdat"
    r"|want|eftersom|fordi|потому|так\s{1,4}как|ponieważ|protože|karena|vì|çünkü)\b|因为|因為|由于"
    r"|\band\b(?!\s{1,4}(?:that|this|it|which|is|was)\b)|\("
)
_SENTENCE = re.compile(r"[.!?](?!\d)|[;\n。！？；]")
_BEGIN = re.compile(rf"{_MARKS}|{_TURNS}", re.IGNORECASE)
_END = re.compile(rf"{_MARKS}|{_TURNS}|{_REASONS}", re.IGNORECASE)
_GIVEN = re.compile(r"\A\s{0,4}(?:since|because|as|given)\b|\band(?:\s{1,4}(?:so|the|thus|that)){0,2}\s{0,4}\Z", re.I)
_OPINION = re.compile(
    r"\b(?:think|believe|say|says|said|sure|certain|agree|true|case|claims?|mean|feel|accept|expect|imagine|see\s+that)\b",
    re.IGNORECASE,
)
_BARE = re.compile(
    rf"""(?:[\s*_"'`)\]]|\b(?:that|this|it|is|was|'s|wait|quite|clearly|definitely|{BEFORE}|{_WORDS})\b|{_JOINED})+\Z""",
    re.IGNORECASE,
)
_REACH = 120
"""Characters before and after a candidate that are looked at."""


def affirmed(text: str) -> str:
    """Remove denials that affirm, such as "no doubt"."""
    return _SURE.sub(" ", text)


def is_spoiled(text: str, start: int, named: int, end: int) -> bool:
    """Tell whether a clause denies, asks or makes conditional what it names.

    Args:
        text: An answer.
        start: Where the statement begins.
        named: Where what it names begins.
        end: Where that ends.
    """
    return is_denied(text, start, named) or _is_denied_later(text[end : end + _REACH])


def is_denied(text: str, start: int, named: int) -> bool:
    """Tell whether something before the name denies it; the arguments are those of `is_spoiled`."""
    earlier, said = text[max(0, start - _REACH) : start], text[start:named]
    sentence = re.split(_TURNS, _SENTENCE.split(earlier)[-1], flags=re.IGNORECASE)[-1]
    before = _BEGIN.split(earlier)[-1]
    if CONDITION.search(sentence):
        return True
    if _GIVEN.search(before) and not _OPINION.search(before):
        before = ""
    return DENIAL.search(f"{before}{said}") is not None


def _is_denied_later(rest: str) -> bool:
    sentence = _SENTENCE.search(rest)
    if sentence and sentence[0] in "?？":
        return True
    parts = _END.split(rest, maxsplit=2)
    following = parts[1] if len(parts) > 1 else ""
    bare = _BARE.match(following) is not None and DENIAL.search(following) is not None
    return bool(DENIAL.search(parts[0]) or bare or CONDITION.match(following.lstrip()))


def clauses(text: str) -> list[tuple[str, bool]]:
    """Split a text into clauses, and tell whether each stands in a question."""
    found, begin = [], 0
    for end in [*_END.finditer(text), None]:
        stop = len(text) if end is None else end.start()
        asked = _SENTENCE.search(text, stop, stop + _REACH)
        found.append((text[begin:stop], asked is not None and asked[0] in "?？"))
        begin = stop if end is None else end.end()
    return found


__all__ = ["AFTER", "BEFORE", "BEFORE_JOINED", "DENIAL", "affirmed", "clauses", "is_denied", "is_spoiled"]
