"""Patterns of the value grammar that no laboratory edits: lengths, flags, error codes, month names.

Here: constants and one escape. Not here: words a laboratory may add (value_codes.csv, comparator_words.csv).
"""

from __future__ import annotations

#: A longer text is not a result; it is not even looked at, so a field of 10 MB costs nothing.
MAX_LENGTH = 200
TOO_LONG = "\x00"
#: A plain number in a point locale, as nine results in ten are.
PLAIN = r"^-?[0-9]{1,15}(?:\.[0-9]{1,15})?$"
#: -999 and its like, as analysers and interfaces write "no value". Positive nines may be a result; plausibility
#: catches those.
SENTINEL = r"^-(?:9{2,}|8{3,}|7{3,})(?:[.,](?:9+|8+|0+))?$"
ERROR_CODE = r"(?i)^(?:err(?:or)?|e|flag|code)[ :#._-]*[0-9]{1,5}$|^[*#@x?!=_~-]{2,}$"
#: An abnormal flag behind a number.
FLAG = r"[(\[]?(?:h{1,2}|l{1,2}|a{1,2}|high|low|crit|critical|abn|abnormal|\*{1,3}|!{1,2}|[↑↓]{1,2})[)\]]?"
#: "No protein detected" is a negative, whatever was looked for; a second negation or a comparison makes it unclear.
NOTHING_SEEN = (
    r"^no (?:[a-z][a-z'()-]* ){1,6}(?:detected|seen|found|isolated|identified|observed|present|recovered)"
    r"(?: in (?:the )?[a-z]+| by [a-z]+)?$"
)
NEGATION = r"\b(?:not|non|no|un[a-z]+|without|longer|other|further|additional|change)\b"

_MONTHS = (
    "jan ene gen", "feb fev", "mar mrz", "apr avr abr", "may mai mag maj", "jun giu", "jul lug", "aug ago aou", "sep set",
    "oct okt ott out", "nov", "dec dez dic des",
)  # fmt: skip
MONTH_NUMBER = {month: i for i, names in enumerate(_MONTHS, start=1) for month in names.split()}
_ANY_MONTH = "|".join(MONTH_NUMBER)
#: A day and a month: "10-May", "May-10", "10 may 2020". Groups: day, month, month, day.
MONTH_TEXT = (
    rf"^(?:([0-9]{{1,2}})[ ./-]?({_ANY_MONTH})[a-z]*\.?(?:[ ./-]+[0-9]{{2,4}})?"
    rf"|({_ANY_MONTH})[a-z]*\.?[ ./-]([0-9]{{1,4}}))$"
)


def escape(word: str) -> str:
    """A word as a regular expression; a word that ends in a letter or digit must end where the text's word ends."""
    plain = "".join(f"\\{c}" if c in r"\.+*?()|[]{}^$#&-~" else c for c in word)
    return plain + r"\b" if word[-1].isalnum() else plain
