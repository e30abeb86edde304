"""Patterns of the value grammar that no laboratory edits: lengths, flags, error codes, month names.

Here: constants and one escape. Not here: words a laboratory may add (value_codes.csv, comparator_words.csv).
"""

from __future__ import annotations

from lims_platform.laboratory.number_text import NUMBER

#: A longer text is not a result; it is not even looked at, so a field of 10 MB costs nothing.
MAX_LENGTH = 200
TOO_LONG = "\x00"
#: A plain number in a point locale, as nine results in ten are.
PLAIN = r"^-?[0-9]{1,15}(?:\.[0-9]{1,15})?$"
#: The same behind a sign, as most censored results are.
SIGNED = r"^[<>]=?[0-9]{1,15}(?:\.[0-9]{1,15})?$"
#: -999 and its like, as analysers and interfaces write "no value". Positive nines may be a result; plausibility
#: catches those.
SENTINEL = r"^-(?:9{2,}|8{3,}|7{3,})(?:[.,](?:9+|8+|0+))?$"
#: Four nines and more, with or without decimals: an interface's "no value" in disguise, whatever the test can reach.
NINES = r"^\s*(?:9{4,}(?:[.,][90]+)?|9{3,}[.,]9+)\s*$"
#: Three nines are a result where the test can reach them.
SHORT_NINES = r"^\s*999(?:[.,]0+)?\s*$"
ERROR_CODE = r"(?i)^(?:err(?:or)?|e|flag|code)[ :#._-]*[0-9]{1,5}$|^[*#@x?!=_~-]{2,}$"
#: An abnormal flag behind a number.
FLAG = r"[(\[]?\*?(?:h{1,2}|l{1,2}|a{1,2}|high|low|crit|critical|panic|abn|abnormal|\*{1,3}|!{1,2}|[↑↓]{1,2})[)\]]?"
#: The same in front of it; a bare "A" is no flag there, it may begin a word.
FLAG_BEFORE = r"(?:(?:h{1,2}|l{1,2}|high|low|crit|critical|abn|abnormal)(?: ?[:;,=]| ) ?|(?:\*{1,3}|!{1,2}|[↑↓]{1,2}) ?)"
#: The reference interval some systems print in brackets behind a number.
INTERVAL = rf"[(\[](?:(?:ref(?:erence)?|normal|norm)[.:]? ?)?{NUMBER} ?(?:-|to|bis) ?{NUMBER}[)\]]"
#: "+1" is a number of base excess and the first rank on a test strip: only the test decides.
PLUS = r"^\+ ?([1-4])$"
#: "No protein detected" is a negative, whatever was looked for; a second negation or a comparison makes it unclear.
NOTHING_SEEN = (
    r"^no (?:[a-z][a-z'()-]* ){1,6}(?:detected|seen|found|isolated|identified|observed|present|recovered)"
    r"(?: in (?:the )?[a-z]+| by [a-z]+)?$"
    r"|^keine?n? (?:[a-z()-]+ ){1,5}(?:nachweisbar|nachgewiesen|gefunden|gesehen|isoliert|vorhanden)$"
    r"|^aucune? (?:[a-z()'-]+ ){1,5}(?:detecte|observe|isole|retrouve|trouve)e?s?$"
    r"|^no se (?:detect|observ|aisl|encontr)[a-z]{1,4} (?:[a-z()-]+ ?){1,5}$"
    r"|^nessun[ao]? (?:[a-z()'-]+ ){1,5}(?:rilevat|osservat|isolat|trovat)[aoie]$"
)
NEGATION = (
    r"\b(?:not|non|no|un[a-z]+|without|longer|other|further|additional|change|but|except|nicht|kein[a-z]*|aber|ausser|sin"
    r"|pero|salvo|excepto|sans|sauf|mais|pas|senza|tranne|ma)\b"
)

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
#: A whole date: 2024-05-10, 10.05.2024, 5/10/24, or the German short form 10.05. (groups: year first; else both ends).
NUMBER_DATE = (
    r"^(?:(?:19|20)[0-9]{2}([-/.])(?P<m1>[0-9]{1,2})[-/.](?P<d1>[0-9]{1,2})"
    r"|(?P<a>[0-9]{1,2})[./-](?P<b>[0-9]{1,2})(?:[./-](?:(?:19|20)[0-9]{2}|[0-9]{2})|\.))"
    r"(?:[ t][0-9:.z+]+(?: ?[ap]m)?)?$"
)

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: 10³ is 10^3; a superscript elsewhere is left alone, so that 5² is never 52.
POWERS = {f"10{str(n).translate(_SUPERSCRIPT)}": f"10^{n}" for n in range(-12, 13) if n}
#: Full-width forms (East Asian input) and Arabic-Indic digits with their marks: other shapes of the same characters.
SHAPES = {chr(0xFEE0 + c): chr(c) for c in range(0x21, 0x7F)} | {
    chr(zero + k): str(k) for zero in (0x0660, 0x06F0) for k in range(10)
} | {"\u066b": ".", "\u066c": "'", "\u2044": "/", "\u2215": "/", "\u2236": ":", "ß": "ss"}  # fmt: skip


def escape(word: str) -> str:
    """A word as a regular expression; a word that ends in a letter or digit must end where the text's word ends."""
    plain = "".join(f"\\{c}" if c in r"\.+*?()|[]{}^$#&-~" else c for c in word)
    return plain + r"\b" if word[-1].isalnum() else plain
