"""Split texts into words, by which passages are found and answers are compared.

A word is one however it was typeset: invisible characters inside it and a hyphen at a line's end do not split
it, a number is one whether or not its thousands are grouped, and accents and points may be left out.
"""

import re
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any

# Words so common in questions that sharing one says nothing about a passage.
_STOP_WORDS = frozenset(
    re.split(
        " ",
        "a an and are as at be been but by can could did do does for from had has have he her hers him his "
        "how i if in into is it its me my no not of on or our she should so that the their them there these "
        "they this those to us was we were what when where which who whom whose why will with would you your",
    )
)
# Unicode's Default_Ignorable_Code_Point: soft hyphens, zero-width spaces and joiners, variation selectors.
_IGNORABLE = re.compile(
    r"\u00ad(?:[ \t]*\r?\n){1,2}[ \t]*|[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    r"\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U000e0000-\U000e0fff]"
)
_PLAIN = re.compile(r"[\x00-\u02bb\u2010-\u2026]*")  # nothing to replace, which is fast to see
_OTHER_DIGIT = re.compile(r"[^\D0-9]")  # such as the Arabic-Indic ones
# Marks that belong to the letter before them, which `\w` leaves out: accents, points and vowel signs.
_MARKS = (
    r"\u0300-\u036f\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed\u0900-\u0963\u0966-\u0df3"
    r"\u0e31-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
)
# What plain spelling leaves out: accents of Latin letters; Hebrew points; Arabic vowel signs and tatweel.
_LEFT_OUT = re.compile(
    r"(?<=[A-Za-z])[\u0300-\u036f]+|[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u0640"
    r"\u064b-\u0652\u0656-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed]"
)
_WITHOUT_STROKES = str.maketrans("øØłŁđĐı", "oOlLdDi")
# Thai and Lao, Myanmar, Khmer, kana, Han; and Hangul, where particles stick to the words.
_UNSPACED_SCRIPTS = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    r"\U00020000-\U0003ffff"
)
_UNSPACED = re.compile(rf"[{_UNSPACED_SCRIPTS}]+")
_UNSPACED_BREAK = re.compile(rf"(?<=[{_UNSPACED_SCRIPTS}])[ \t]*\r?\n[ \t]*(?=[{_UNSPACED_SCRIPTS}])")
# Letters and digits, with the marks that may be inside of a word or number: a hyphen, at a line's end too,
# an apostrophe, what groups digits, and the full stops of an acronym.
_RUN = re.compile(
    rf"[\w{_MARKS}]+(?:[-\u2010](?:(?:[ \t]*\r?\n){{1,2}}[ \t]*)?[\w{_MARKS}]+|['’]\w+"
    r"|(?<=\d)(?:[,. ٬]\d{3}(?!\d)|,\d\d(?=,))|\.\w\b)*"
)
_PIECE = re.compile(rf"[\w{_MARKS}]+")
_PART = re.compile(rf"\d+|(?:[^\W\d_]|[{_MARKS}])+")
_ACRONYM = re.compile(r"[^\W\d_](?:\.[^\W\d_])+")
_HYPHENATED = re.compile(rf"(?:[^\W\d_]|[{_MARKS}])+(?:[-\u2010]\s*(?:[^\W\d_]|[{_MARKS}])+)+")
# Digits in groups of three after a first group of one to three (0.125 is no group), or as India groups them;
# in `Row 12 123,456,789` the second.
_NUMBER = re.compile(
    r"(?<![\d_])(?<!\d[,.'’٬])(?:"
    + "|".join(
        [rf"[1-9]\d{{0,2}}(?:{mark}\d{{3}})+(?!{mark}?\d)" for mark in (",", r"\.", "['’]", "_", "٬")]
        + [r"[1-9]\d{0,2}(?: \d{3}){1,8}(?! ?\d|[,.]\d{3})", r"[1-9]\d?(?:,\d\d)+,\d{3}(?!,?\d)"]
    )
    + ")"
)
_SURE_NUMBER = re.compile(r"\d+[,'’_٬].*|(?:\d+[. ]){2,}\d+")  # 4.000 and 4 000 may be something else
_ENDING = re.compile(r"['’](?:s|ll|ve|re|m|d)$", re.IGNORECASE)
_NEGATION = re.compile(r".*n['’]t", re.IGNORECASE)
_NOT_LATIN = (  # a letter of another script; not symbols such as the micro sign and the Kelvin sign
    r"[^\W\d_a-zA-Z\u00aa\u00b5\u00ba\u00c0-\u02ff\u1d00-\u1eff\u2100-\u214f\u2c60-\u2c7f\ua720-\ua7ff"
    r"\uab30-\uab6f\ufb00-\ufb06\uff21-\uff5a]"
)
_OTHER_SCRIPT = re.compile(rf"[{_UNSPACED_SCRIPTS}]|{_NOT_LATIN}[{_MARKS}]*{_NOT_LATIN}")
_COMPARED = re.compile(
    rf"[{_UNSPACED_SCRIPTS}][{_MARKS}]*|[^\W_{_UNSPACED_SCRIPTS}](?:[^\W_{_UNSPACED_SCRIPTS}]|[{_MARKS}])*"
)
# Scripts of one language each, so that its stemmer fits.
_LANGUAGES = {
    "greek": re.compile(r"[\u0370-\u03ff\u1f00-\u1fff]+"),
    "armenian": re.compile(r"[\u0531-\u0587]+"),
    "tamil": re.compile(r"[\u0b80-\u0bff]+"),
}


def words_of_question(question: str) -> list[str]:
    """Return the words of a question by which passages are ranked.

    Stop words do not count, but a stop word in capitals does (IT, US, WHO, hepatitis A), unless the whole
    question is in capitals. A question of stop words alone, such as "To be or not to be?", counts with all.
    """
    runs = runs_of(question)
    shouts = question.isupper()
    chosen = []
    for place, run in enumerate(runs):
        words = words_in(run)
        if _NUMBER.fullmatch(run) and _SURE_NUMBER.fullmatch(run):
            chosen.append(words[0])
        else:
            has_acronyms = not shouts and (place > 0 or len(run) > 1)
            chosen += [
                word for word in words if (has_acronyms if word.isupper() else word not in _STOP_WORDS)
            ]
    return chosen or [word for run in runs for word in words_in(run)]


def runs_of(text: str) -> list[str]:
    """Return the runs of characters between white space and punctuation, which `words_in` takes apart."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", _IGNORABLE.sub("", text))
        if not _PLAIN.fullmatch(text):
            text = _OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), text)
            text = _UNSPACED_BREAK.sub("", text).replace("ʼ", "'")
    return _RUN.findall(text)


def words_in(run: str) -> list[str]:
    """Return the words of a run by which a passage is found, stop words included.

    Without accents and points, casefolded and stemmed. Identifiers, words joined by hyphens and grouped
    numbers count whole and by their parts; scripts without spaces by pairs of characters. A stop word in
    capitals counts as it stands, too.
    """
    if not run.isascii():
        plain = _LEFT_OUT.sub("", unicodedata.normalize("NFKD", run)).translate(_WITHOUT_STROKES)
        run = unicodedata.normalize("NFC", plain)
    if run.isalpha():
        return _words_in_piece(run)
    if _NEGATION.fullmatch(run):
        return []
    run = _ENDING.sub("", run)
    if _ACRONYM.fullmatch(run):
        return _words_in_piece(run.replace(".", ""))
    pieces = _PIECE.findall(run)
    words = ["".join(re.findall(r"\d", number)) for number in _NUMBER.findall(run)]
    words += [word for piece in pieces for word in _words_in_piece(piece)]
    if _HYPHENATED.fullmatch(run):
        words.append(_stem("".join(pieces).casefold()))
    return words


def words_to_compare(text: str, split_ascii: Callable[[str], list[str]]) -> list[str]:
    """Return the words by which answers are compared: a function splits those of ASCII letters and digits.

    Others are taken as they stand, casefolded; scripts without spaces by single characters.
    """
    if text.isascii():
        return split_ascii(text)
    words: list[str] = []
    for word in _COMPARED.findall(unicodedata.normalize("NFKC", text)):
        words += split_ascii(word) if word.isascii() else [word.casefold()]
    return words


def split_scripts(word: str) -> list[str]:
    """Return a word of Latin letters as it is; else its parts by script, without punctuation."""
    return words_to_compare(word, lambda part: [part]) if _OTHER_SCRIPT.search(word) else [word]


def _words_in_piece(piece: str) -> list[str]:
    """Return the words of letters, digits and underscores."""
    words = []
    spaced = [piece]
    if not piece.isascii():
        for unspaced in _UNSPACED.findall(piece):
            words += [unspaced[at : at + 2] for at in range(max(1, len(unspaced) - 1))]
        spaced = _UNSPACED.sub(" ", piece).split()
    for word in spaced:
        parts = [hump for part in _PART.findall(word) for hump in _humps(part)]
        for part in parts:
            plain = part.casefold()
            words.append(plain if plain in _STOP_WORDS else _stem(plain))
            if plain in _STOP_WORDS and part.isupper() and (len(part) > 1 or part == word == "A"):
                words.append(part)
        if parts != [word]:
            words.append(word.casefold())
    return words


def _humps(word: str) -> list[str]:
    """Split a word at its capitals: readPages gives read, Pages; HTTPServer gives HTTP, Server."""
    if word.islower():
        return [word]
    starts = [
        at
        for at in range(1, len(word))
        if word[at].isupper() and (word[at - 1].islower() or word[at + 1 : at + 2].islower())
    ]
    return [word[start:end] for start, end in pairwise([0, *starts, len(word)])]


def _stem(word: str) -> str:
    """Return a word without its endings, by the stemmer of its language where the script shows the language.

    ASCII letters are taken for English. Other Latin words lose a plural s, and others stay.
    """
    if word.isascii():
        return str(_stemmer("english").stemWord(word)) if word.isalpha() else word
    for language, letters in _LANGUAGES.items():
        if letters.fullmatch(word):
            return str(_stemmer(language).stemWord(word))
    return (
        word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word
    )


@cache
def _stemmer(language: str) -> Any:
    """Return a stemmer of the Snowball project; without its cache, threads may share it."""
    import Stemmer

    return Stemmer.Stemmer(language, 0)
