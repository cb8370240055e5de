"""Metrics once more, slowly, from their published formulas, for comparison. Shares no code with `evaluation`.

Everything takes plain texts and lists and returns plain numbers.
"""

import math
import string

ARTICLES = ("a", "an", "the")
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}

# EvalAI's table: wrong form and right form. Of its entries, those that can meet a text in lower case.
CONTRACTION_TABLE = """
    aint:ain't arent:aren't cant:can't couldve:could've couldnt:couldn't couldn'tve:couldn't've couldnt've:couldn't've
    didnt:didn't doesnt:doesn't dont:don't hadnt:hadn't hadnt've:hadn't've hadn'tve:hadn't've hasnt:hasn't
    havent:haven't hed:he'd hed've:he'd've he'dve:he'd've hes:he's howd:how'd howll:how'll hows:how's isnt:isn't
    itd:it'd itd've:it'd've it'dve:it'd've itll:it'll maam:ma'am mightnt:mightn't mightnt've:mightn't've
    mightn'tve:mightn't've mightve:might've mustnt:mustn't mustve:must've neednt:needn't notve:not've oclock:o'clock
    oughtnt:oughtn't 'ows'at:'ow's'at shant:shan't shed've:she'd've she'dve:she'd've shouldve:should've
    shouldnt:shouldn't shouldnt've:shouldn't've shouldn'tve:shouldn't've somebody'd:somebodyd
    somebodyd've:somebody'd've somebody'dve:somebody'd've somebodyll:somebody'll somebodys:somebody's
    someoned:someone'd someoned've:someone'd've someone'dve:someone'd've someonell:someone'll someones:someone's
    somethingd:something'd somethingd've:something'd've something'dve:something'd've somethingll:something'll
    thats:that's thered:there'd thered've:there'd've there'dve:there'd've therere:there're theres:there's theyd:they'd
    theyd've:they'd've they'dve:they'd've theyll:they'll theyre:they're theyve:they've twas:'twas wasnt:wasn't
    wed've:we'd've we'dve:we'd've weve:we've werent:weren't whatll:what'll whatre:what're whats:what's whatve:what've
    whens:when's whered:where'd wheres:where's whereve:where've whod:who'd whod've:who'd've who'dve:who'd've
    wholl:who'll whos:who's whove:who've whyll:why'll whyre:why're whys:why's wont:won't wouldve:would've
    wouldnt:wouldn't wouldnt've:wouldn't've wouldn'tve:wouldn't've yall:y'all yall'll:y'all'll y'allll:y'all'll
    yall'd've:y'all'd've y'alld've:y'all'd've y'all'dve:y'all'd've youd:you'd youd've:you'd've you'dve:you'd've
    youll:you'll youre:you're youve:you've
"""
CONTRACTIONS = dict(pair.split(":") for pair in CONTRACTION_TABLE.split())


def is_word_character(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


def has_answer(text: str) -> bool:
    return text.strip() != ""


def belongs_to_number(text: str, place: int) -> bool:
    """Whether a mark is the point of 3.5, the colon of 10:30, the slash of 5/8 or the minus of -5."""
    before, mark, after = text[max(place - 1, 0) : place], text[place], text[place + 1 : place + 3]
    if mark == ".":
        return after[:1].isdecimal()
    if mark in ":/":
        return before.isdecimal() and after[:1].isdecimal()
    number_follows = after[:1].isdecimal() or (after[:1] == "." and after[1:].isdecimal())
    return mark == "-" and number_follows and not (before and (is_word_character(before) or before in ".)]"))


def plain_form(text: str) -> str:
    """Lower case, no ASCII punctuation but that of numbers, single spaces, no articles if there is anything else."""
    text = text.lower()
    letters = enumerate(text)
    kept = "".join(
        letter for place, letter in letters if letter not in string.punctuation or belongs_to_number(text, place)
    )
    kept = " ".join(kept.split())
    runs, run = [], ""
    for letter in kept + " ":
        if is_word_character(letter):
            run += letter
            continue
        runs += [" " if run in ARTICLES else run, letter]
        run = ""
    return " ".join("".join(runs).split()) or kept or " ".join(text.split())


def exact_match(prediction: str, reference: str) -> float:
    return 1.0 if has_answer(prediction) and plain_form(prediction) == plain_form(reference) else 0.0


def evalai(text: str) -> str:
    text = text.lower()
    for mark in ",?":
        text = text.replace(mark, "")
    text = text.replace("'s", " 's")
    for space in "\n\t":
        text = text.replace(space, " ")
    text = text.strip()
    marks = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]
    removed = [mark for mark in marks if mark + " " in text or " " + mark in text]
    text = "".join("" if letter in removed else " " if letter in marks else letter for letter in text)
    letters = []
    for position, letter in enumerate(text):
        digit_follows = text[position + 1 : position + 2].isdecimal()
        if letter != "." or digit_follows:
            letters.append(letter)
    words = [NUMBERS.get(word, word) for word in "".join(letters).split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(prediction: str, answers: list[str]) -> float:
    if not has_answer(prediction):
        return 0.0
    total = 0.0
    for left_out in range(len(answers)):
        others = answers[:left_out] + answers[left_out + 1 :]
        agreeing = [other for other in others if evalai(other) == evalai(prediction)]
        total += min(1.0, len(agreeing) / 3)
    return total / len(answers)


def edit_distance(first: list, second: list) -> int:
    """Wagner and Fischer's table, whole."""
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i in range(len(first) + 1):
        for j in range(len(second) + 1):
            if i == 0 or j == 0:
                table[i][j] = i + j
            else:
                replaced = table[i - 1][j - 1] + (first[i - 1] != second[j - 1])
                table[i][j] = min(replaced, table[i - 1][j] + 1, table[i][j - 1] + 1)
    return table[-1][-1]


def anls(prediction: str, answers: list[str]) -> float:
    given = " ".join(prediction.lower().split())
    best = 0.0
    for answer in answers:
        true = " ".join(answer.lower().split())
        if given:
            distance = edit_distance(list(given), list(true)) / max(len(given), len(true))
            best = max(best, 1 - distance if distance < 0.5 else 0.0)
    return best


def error_rate(predictions: list[list[str]], references: list[list[str]]) -> float:
    """Errors of the corpus over units of its references."""
    errors = sum(edit_distance(given, true) for given, true in zip(predictions, references, strict=True))
    return errors / sum(map(len, references))


def _without_thoughts(prediction: str) -> str:
    while "<think>" in prediction:
        before, _, thought = prediction.partition("<think>")
        prediction = before + thought.partition("</think>")[2]
    return prediction.rpartition("</think>")[2].strip()


def choice(prediction: str, choices: list[str]) -> str | None:
    prediction = _without_thoughts(prediction)
    letters = string.ascii_uppercase[: len(choices)]
    for form in (lambda text: " ".join(text.lower().split()), plain_form):
        forms = [form(option) for option in choices]
        if len(form(prediction)) > 1 and forms.count(form(prediction)) == 1:
            return letters[forms.index(form(prediction))]
    text = _without_asked(_with_several(_without_refused(prediction, letters), letters), letters)
    for leads in (("answer is:", "answer is", "answer:"), ("i say", "it is")):
        if (found := _after_lead(text, leads)) is not None:
            return found if found in letters else None
    text = _without_list(text, letters)
    if _several(text, letters):
        return None
    for place in (_at_start, _at_end):
        if found := place(text, letters):
            return found
    for before, after in (("(", ")"), ("", "."), ("", ":"), ("", ")")):
        if found := _last_marked(text, letters, before, after):
            return found
    return _by_text(plain_form(text), forms, letters)


def _ends_letter(rest: str) -> bool:
    """Whether a letter can end before this: not within a word, a name such as B-cell, C++ or a formula."""
    if rest[:1].isascii() and (rest[:1].isalnum() or rest[:1] == "_"):
        return False
    if "\u00c0" <= rest[:1] <= "\u024f" or "\u0400" <= rest[:1] <= "\u04ff":
        return False
    joined = rest[:1] in [*"'\u2019.-"] and rest[1:2].isascii() and rest[1:2].isalpha()
    return not joined and rest[:1] not in [*"+#"] and not rest[int(rest[:1].isspace()) :].startswith("=")


def _letter_at(text: str, place: int, letters: str) -> bool:
    """Whether a letter stands here alone."""
    before, own = text[place - 1 : place], text[place : place + 1]
    inside = not _ends_letter(before.replace("=", "").replace("+", "").replace("#", "")) or before in [*"'\u2019"]
    return own != "" and own in letters and not (place and inside) and _ends_letter(text[place + 1 :])


def _begins_word(rest: str, exceptions: list[str]) -> bool:
    """Whether up to four spaces and a word in small ASCII letters follow, none of the exceptions."""
    word = rest.lstrip()
    if not 0 < len(rest) - len(word) <= 4 or not "a" <= word[:1] <= "z":
        return False
    length = next((n for n, mark in enumerate(word) if not is_word_character(mark)), len(word))
    return word[:length] not in exceptions


def _skip(text: str, place: int, marks: str, most: int) -> int:
    while most and text[place : place + 1] and text[place] in marks:
        place, most = place + 1, most - 1
    return place


_SPACE = (
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
)
_SPACE += "\u2028\u2029\u202f\u205f\u3000"


def _next_joined(text: str, place: int, letters: str) -> int | None:
    """The end of ", B", "/B", "and (B)"; None if nothing of the kind stands here."""
    place = _skip(text, place, _SPACE, 4)
    words = [word for word in ("and", "or", "nor") if text[place:].lower().startswith(word)]
    if text[place : place + 1] == ",":
        place = _skip(text, place + 1, _SPACE, 4)
        words = [word for word in ("and", "or") if text[place:].lower().startswith(word)]
        place += len(words[0]) if words and not is_word_character(text[place + len(words[0])] or " ") else 0
    elif text[place : place + 1] and text[place] in "/&":
        place += 1
    elif (
        words
        and not is_word_character(text[place - 1])
        and not is_word_character(text[place + len(words[0]) :][:1] or " ")
    ):
        place += len(words[0])
    else:
        return None
    place = _skip(text, _skip(text, place, _SPACE, 4), "*([", 3)
    if not _letter_at(text, place, letters):
        return None
    end = _skip(text, place + 1, "*)]", 3)
    article = text[place] == "A" and end == place + 1
    return None if article and _begins_word(text[end:], ["and", "or", "nor", "is", "are"]) else end


def _with_several(text: str, letters: str) -> str:
    """The text with a mark for letters that are named side by side."""
    kept, place = "", 0
    while place < len(text):
        start = _skip(text, place, "*([", 3)
        if _letter_at(text, start, letters):
            end = _skip(text, start + 1, "*)]", 3)
            while (further := _next_joined(text, end, letters)) is not None:
                end = further
            named = text[place:end]
            several = len({*named} & {*letters}) > 1
            kept, place = kept + ("\0" if several else named), end
        else:
            kept, place = kept + text[place], place + 1
    return kept


def _without_asked(text: str, letters: str) -> str:
    """The text without letters before a question mark."""
    kept, place = "", 0
    while place < len(text):
        start = _skip(text, place, "*([", 3)
        end = _skip(text, start + 1, _SPACE + "*_`\"'$)]}>\u201c\u201d\u2018\u2019", 11)
        if _letter_at(text, start, letters) and text[end : end + 1] == "?":
            place = end + 1
        else:
            kept, place = kept + text[place], place + 1
    return kept


def _after_lead(text: str, leads: tuple[str, ...]) -> str | None:
    """The letter that follows the last of some words, a capital or one that ends there."""
    found, small = None, "answer:" in leads
    for start in range(len(text)):
        lead = next((lead for lead in leads if text[start:].lower().startswith(lead)), None)
        if lead is None or (start and is_word_character(text[start - 1])):
            continue
        place = _skip(text, start + len(lead), _SPACE + "*_`\"'$([{<", 12)
        own, rest = text[place : place + 1], text[place + 1 :]
        if not own or not _ends_letter(rest):
            continue
        connected = ["as", "because", "based", "due", "for", "given", "since"]
        capital = own == "\0" or ("A" <= own <= "Z" and not (own in "AI" and _begins_word(rest, connected)))
        end = _skip(rest, 0, _SPACE, 4)
        ends = rest[end : end + 1] in ["", *".,;:)]}*\"'<\n"] or "\n" in rest[: end + 1]
        if capital or (small and "a" <= own <= "z" and ends):
            found = own.upper()
    return found


def _without_list(text: str, letters: str) -> str:
    """The text without the lines that begin with letters, where these are several."""
    kept, labels = [], set()
    for line in text.split("\n"):
        begin = line.lstrip(" \t([*")
        if begin[:1] in [*string.ascii_uppercase] and begin[1:2] in [*".):"]:
            labels.add(begin[0])
            line = ""
        kept.append(line)
    if len(labels & set(letters)) < 2:
        kept = text.split("\n")
    return "\n".join(_before_options(line, letters) for line in kept)


def _before_options(line: str, letters: str) -> str:
    """The line up to the first A, if marks of all letters follow each other from there."""
    starts = []
    for letter in letters:
        places = range(starts[-1] + 2 if starts else 0, len(line) - 1)
        marks = [at for at in places if line[at] == letter and line[at + 1] in ".):"]
        free = [at for at in marks if at == 0 or not is_word_character(line[at - 1])]
        if not free:
            return line
        starts.append(free[0])
    return line[: starts[0]]


def _several(text: str, letters: str) -> bool:
    words = "".join(letter if is_word_character(letter) else " " for letter in text).split()
    rest = [word for word in words if len(word) > 1 or word not in letters]
    small = ["and", "or", "nor", "neither", "either", "both", "none", "all", "not", "of", "the"]
    return len({*words} - {*rest}) > 1 and all(word.lower() in small for word in rest)


def _after_word(before: str, *words: str) -> bool:
    """Whether what comes next stands after one of these words and a space."""
    return any(
        before.endswith(word + " ") and not is_word_character(before[-len(word) - 2 : -len(word) - 1] or " ")
        for word in words
    )


def _without_refused(text: str, letters: str) -> str:
    """The text without "not B", "nor (B)"."""
    kept = ""
    while text:
        for word in ("not", "nor"):
            start = text[: len(word) + 1].lower() == word + " " and not is_word_character(kept[-1:] or " ")
            rest = text[len(word) + 1 :].removeprefix("(")
            if start and rest[:1] in [*letters] and not is_word_character(rest[1:2] or " "):
                text = rest[1:].removeprefix(")")
                break
        else:
            kept, text = kept + text[0], text[1:]
    return kept


def _at_start(text: str, letters: str) -> str | None:
    text = text.lstrip(" ([{*\"'`$" + _SPACE)
    if text[:1].upper() not in [*letters] or not text[0].isascii():
        return None
    rest = text[1:]
    delimited = rest[:1] in [*':;!),]}*`"\t\n'] or (rest[:1] in [*".'"] and not is_word_character(rest[1:2] or " "))
    after = rest.lstrip()
    dashed = after != rest and after[:1] in [*"-\u2013\u2014"] and after[1:2].isspace()
    return text[0].upper() if delimited or dashed or not after else None


def _at_end(text: str, letters: str) -> str | None:
    text = text.rstrip(" .:)]}*\"'$" + _SPACE)
    if text[-1:] not in [*letters] or _after_word(text[:-1], "or", "and"):
        return None
    if text[-3:-2].isdecimal() and text[-2] == " ":
        return None
    return text[-1] if len(text) == 1 or text[-2] in "([{*\"':$" or text[-2].isspace() else None


def _last_marked(text: str, letters: str, before: str, after: str) -> str | None:
    for place in reversed(range(len(text))):
        left, right = text[:place], text[place + 1 :]
        if text[place] not in letters or not right.startswith(after):
            continue
        if before and not left.endswith(before):
            continue
        if not before and left and (is_word_character(left[-1]) or left[-1] in ".'"):
            continue
        if after == "." and is_word_character(right[1:2] or " "):
            continue
        return text[place]
    return None


def _by_text(text: str, forms: list[str], letters: str) -> str | None:
    """The one option that the text holds; what a longer option covers does not count for a shorter one."""
    words: list[str | None] = [*text.split(" ")]
    found = []
    for form in sorted({form for form in forms if form}, key=lambda form: -len(form)):
        parts = form.split(" ")
        start = 0
        while start + len(parts) <= len(words):
            if words[start : start + len(parts)] == parts:
                found += [] if start and words[start - 1] == "not" else [form]
                words[start : start + len(parts)] = [None]
            start += 1
    named = [letter for letter, form in zip(letters, forms, strict=True) if form in found]
    return named[0] if len(named) == 1 else None


def circular(right: list[bool], groups: list[str]) -> float:
    questions = sorted(set(groups))
    whole = [all(hit for hit, group in zip(right, groups, strict=True) if group == name) for name in questions]
    return sum(whole) / len(questions)


def yes_no(prediction: str) -> str | None:
    sentence = ""
    for letter in prediction:
        if letter in ".!?\n":
            if sentence.strip():
                break
            sentence = ""
        else:
            sentence += letter
    words, word, joined = [], "", False
    for letter in sentence.lower() + " ":
        if letter.isalnum() and not letter.isdecimal():
            word += letter
        elif letter in "'\u2019" and word and not joined:
            word, joined = word + letter, True
        else:
            words.append(word.rstrip("'\u2019"))
            word, joined = "", False
    if "no" in words or "not" in words:
        return "no"
    return "yes" if "yes" in words else None


def pope(predictions: list[str], references: list[str]) -> dict[str, float | None]:
    answers = [yes_no(prediction) for prediction in predictions]
    true_positive = false_positive = missed = right = 0
    for answer, reference in zip(answers, references, strict=True):
        right += answer == reference
        true_positive += answer == "yes" and reference == "yes"
        false_positive += answer == "yes" and reference == "no"
        missed += answer != "yes" and reference == "yes"
    precision = true_positive / (true_positive + false_positive) if true_positive + false_positive else None
    recall = true_positive / (true_positive + missed) if true_positive + missed else None
    f1 = None if precision is None and recall is None else 0.0
    if precision and recall:
        f1 = 2 * precision * recall / (precision + recall)
    return {
        "accuracy": right / len(answers),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_ratio": answers.count("yes") / len(answers),
    }


def mme(predictions: list[str], references: list[str], pictures: list[str]) -> float:
    """The score of one category: 100 times accuracy, plus 100 times the share of pictures with both answers right."""
    right = [yes_no(given) == true for given, true in zip(predictions, references, strict=True)]
    return 100 * sum(right) / len(right) + 100 * circular(right, pictures)


def n_grams(words: list[str], n: int) -> dict[tuple[str, ...], int]:
    counts: dict[tuple[str, ...], int] = {}
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        counts[gram] = counts.get(gram, 0) + 1
    return counts


def cider_d(captions: list[list[str]], references: list[list[list[str]]]) -> list[float]:
    """Of each row: 10 / 4 times the sum over n of the clipped cosine of tf-idf vectors, with the length penalty."""
    scores = [0.0] * len(captions)
    for n in (1, 2, 3, 4):
        rows_with: dict[tuple[str, ...], int] = {}
        for own in references:
            for gram in {gram for reference in own for gram in n_grams(reference, n)}:
                rows_with[gram] = rows_with.get(gram, 0) + 1
        for row, (caption, own) in enumerate(zip(captions, references, strict=True)):
            given = _tf_idf(caption, n, rows_with, len(captions))
            for reference in own:
                alike = _clipped_cosine(given, _tf_idf(reference, n, rows_with, len(captions)))
                penalty = math.exp(-((len(caption) - len(reference)) ** 2) / (2 * 6**2))
                scores[row] += 10 / 4 * penalty * alike / len(own)
    return scores


def _tf_idf(
    words: list[str], n: int, rows_with: dict[tuple[str, ...], int], rows: int
) -> dict[tuple[str, ...], float]:
    return {gram: count * math.log(rows / rows_with.get(gram, 1)) for gram, count in n_grams(words, n).items()}


def _clipped_cosine(given: dict[tuple[str, ...], float], true: dict[tuple[str, ...], float]) -> float:
    product = sum(min(weight, true.get(gram, 0.0)) * true.get(gram, 0.0) for gram, weight in given.items())
    norms = math.sqrt(sum(w * w for w in given.values())) * math.sqrt(sum(w * w for w in true.values()))
    return product / norms if norms else 0.0


def bleu_4(captions: list[list[str]], references: list[list[list[str]]]) -> float:
    """Of the corpus: geometric mean of four clipped precisions, times exp(1 - nearest reference length / length)."""
    logs = []
    for n in (1, 2, 3, 4):
        hits = guesses = 0
        for caption, own in zip(captions, references, strict=True):
            for gram, count in n_grams(caption, n).items():
                hits += min(count, max(n_grams(reference, n).get(gram, 0) for reference in own))
                guesses += count
        if not hits:
            return 0.0
        logs.append(math.log(hits / guesses))
    length = sum(map(len, captions))
    nearest = sum(
        min((abs(len(reference) - len(caption)), len(reference)) for reference in own)[1]
        for caption, own in zip(captions, references, strict=True)
    )
    return math.exp(sum(logs) / 4 + min(0.0, 1 - nearest / length))


def rouge_l(caption: list[str], references: list[list[str]]) -> float:
    """F of the longest common subsequence with beta = 1.2; the best precision with the best recall."""
    lengths = [_common(caption, reference) for reference in references]
    precision = max(length / len(caption) for length in lengths)
    recall = max(length / len(reference) for length, reference in zip(lengths, references, strict=True))
    return (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision) if precision and recall else 0.0


def _common(first: list[str], second: list[str]) -> int:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, word in enumerate(first, start=1):
        for j, other in enumerate(second, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if word == other else max(table[i - 1][j], table[i][j - 1])
    return table[-1][-1]
