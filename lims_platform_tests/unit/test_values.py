"""The value grammar: examples of every kind, and the promises that hold for any text."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from lims_platform.laboratory.number_text import LOCALES
from lims_platform.laboratory.values import USABLE_KINDS, VALUE_FIELDS, VALUE_KINDS, Grammar, parse_values
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[2] / "data" / "reference")


def parse(texts: list[str | None], locale: str = "point") -> list[dict[str, Any]]:
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    return frame.select(parse_values(pl.col("text"), locale, REFERENCE).alias("v")).unnest("v").to_dicts()


def meaning(text: str | None, locale: str = "point") -> tuple[Any, ...]:
    row = parse([text], locale)[0]
    return tuple(row[k] for k in ("value_kind", "value_number", "value_upper", "comparator", "value_code"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5.2", ("number", 5.2, None, None, None)),
        (" -1.5 ", ("number", -1.5, None, None, None)),
        ("−1.5", ("number", -1.5, None, None, None)),
        ("1.2E3", ("number", 1200.0, None, None, None)),
        ("1.2 x 10^3", ("number", 1200.0, None, None, None)),
        ("1,234,567", ("number", 1234567.0, None, None, None)),
        ("1,234.5", ("number", 1234.5, None, None, None)),
        ("5.2 H", ("number", 5.2, None, None, None)),
        ('="5.2"', ("number", 5.2, None, None, None)),
        ("5.2 mmol/L", ("number", 5.2, None, None, None)),
        ("5.2 mmol/L (3.5-5.1)", ("number", 5.2, None, None, None)),
        ("7.4 H [ref: 7.35-7.45]", ("number", 7.4, None, None, None)),
        ("5.2 mmol/L, corrected", ("number", 5.2, None, None, None)),
        ("5.2 not verified", ("unreadable", None, None, None, None)),
        ("5.2 corrected from 4.8", ("unreadable", None, None, None, None)),
        ("<20 copies/mL detected", ("coded", 20.0, None, "<", "POSITIVE")),
        ("<20 copies/mL (not detected)", ("coded", 20.0, None, "<", "NEGATIVE")),
        ("größer als 100", ("censored", 100.0, None, ">", None)),
        ("<0.5", ("censored", 0.5, None, "<", None)),
        ("≤ 5", ("censored", 5.0, None, "<=", None)),
        ("=>10", ("censored", 10.0, None, ">=", None)),
        ("LESS THAN 10", ("censored", 10.0, None, "<", None)),
        ("GREATER THAN 20 NG/ML", ("censored", 20.0, None, ">", None)),
        ("not less than 10", ("censored", 10.0, None, ">=", None)),
        ("kleiner als 5", ("censored", 5.0, None, "<", None)),
        ("0-2", ("range", 0.0, 2.0, None, None)),
        ("21 – 50 /HPF", ("range", 21.0, 50.0, None, None)),
        ("1:80", ("titre", 80.0, None, None, None)),
        ("1/80", ("titre", 80.0, None, None, None)),
        ("1 in 80", ("titre", 80.0, None, None, None)),
        ("5 in 10", ("unreadable", None, None, None, None)),
        (">1:640", ("titre", 640.0, None, ">", None)),
        ("POSITIVE 1:80", ("titre", 80.0, None, None, "POSITIVE")),
        ("1+", ("ordinal", None, None, None, "1+")),
        ("TR", ("ordinal", None, None, None, "TRACE")),
        ("NEG.", ("coded", None, None, None, "NEGATIVE")),
        ("NOT DETECTED", ("coded", None, None, None, "NEGATIVE")),
        ("Non-Reactive", ("coded", None, None, None, "NEGATIVE")),
        ("nicht nachgewiesen", ("coded", None, None, None, "NEGATIVE")),
        ("non détecté", ("coded", None, None, None, "NEGATIVE")),
        ("Détecté", ("coded", None, None, None, "POSITIVE")),
        ("INFLUENZA A DETECTED", ("coded", None, None, None, "POSITIVE")),
        ("SARS-CoV-2 RNA: Not Detected", ("coded", None, None, None, "NEGATIVE")),
        ("No protein detected", ("coded", None, None, None, "NEGATIVE")),
        ("NEGATIVE (<0.9)", ("coded", 0.9, None, "<", "NEGATIVE")),
        ("INDETERMINATE", ("coded", None, None, None, "INDETERMINATE")),
        ("-999", ("instrument_error", None, None, None, None)),
        ("-9999.0", ("instrument_error", None, None, None, None)),
        ("#DIV/0!", ("instrument_error", None, None, None, None)),
        ("QNS", ("not_done", None, None, None, None)),
        ("Specimen clotted; NOT DONE", ("not_done", None, None, None, None)),
        ("1,234", ("ambiguous", None, None, None, None)),
        ("10-May", ("ambiguous", None, None, None, None)),
        ("May-10", ("ambiguous", None, None, None, None)),
        ("10-5", ("ambiguous", None, None, None, None)),
        ("1e400", ("unreadable", None, None, None, None)),
        ("1e-400", ("unreadable", None, None, None, None)),
        ("5 10", ("unreadable", None, None, None, None)),
        ("5.2 FOO", ("unreadable", None, None, None, None)),
        ("14/2", ("unreadable", None, None, None, None)),
        ("150 IS HIGHEST MEASURED PTT", ("unreadable", None, None, None, None)),
        ("0.5NULL", ("unreadable", None, None, None, None)),
        ("DETECTED 5 NOT DETECTED", ("unreadable", None, None, None, None)),
        ("FLU A POSITIVE, FLU B NEGATIVE", ("unreadable", None, None, None, None)),
        ("2020-05-10", ("ambiguous", None, None, None, None)),
        ("01.02.", ("ambiguous", None, None, None, None)),
        ("5/10/24", ("ambiguous", None, None, None, None)),
        ("2024-05-10 00:00:00", ("ambiguous", None, None, None, None)),
        ("10.Mai", ("ambiguous", None, None, None, None)),
        ("2024-13-45", ("unreadable", None, None, None, None)),
        ("H 5.2", ("number", 5.2, None, None, None)),
        ("5.2 High", ("number", 5.2, None, None, None)),
        ("*5.2", ("number", 5.2, None, None, None)),
        ("+2", ("number", 2.0, None, None, "2+")),
        ("５．２", ("number", 5.2, None, None, None)),
        ("٣٤", ("number", 34.0, None, None, None)),
        ("1.2×10³", ("number", 1200.0, None, None, None)),
        ("=5.2", ("number", 5.2, None, None, None)),
        ("5 or less", ("censored", 5.0, None, "<=", None)),
        ("300 und mehr", ("censored", 300.0, None, ">=", None)),
        ("<5 or more", ("unreadable", None, None, None, None)),
        ("inf. à 0,5", ("censored", 0.5, None, "<", None)),
        ("≧100", ("censored", 100.0, None, ">=", None)),
        ("0.5<", ("unreadable", None, None, None, None)),
        ("NOT_DETECTED", ("coded", None, None, None, "NEGATIVE")),
        ("(-)", ("coded", None, None, None, "NEGATIVE")),
        ("schwach positiv", ("coded", None, None, None, "WEAK_POSITIVE")),
        ("не обнаружено", ("coded", None, None, None, "NEGATIVE")),
        ("陰性", ("coded", None, None, None, "NEGATIVE")),
        ("keine Parasiten nachweisbar", ("coded", None, None, None, "NEGATIVE")),
        ("no se observan parasitos", ("coded", None, None, None, "NEGATIVE")),
        ("1:160 speckled", ("titre", 160.0, None, None, "SPECKLED")),
        ("≮5", ("unreadable", None, None, None, None)),
        ("5²", ("unreadable", None, None, None, None)),
        ("", ("missing", None, None, None, None)),
        (None, ("missing", None, None, None, None)),
    ],
)
def test_one_text_has_one_meaning(text: str | None, expected: tuple[Any, ...]) -> None:
    assert meaning(text) == expected


def test_the_locale_decides_what_a_mark_means() -> None:
    assert meaning("1,234", "comma")[:2] == ("number", 1.234)
    assert meaning("1.234", "comma")[:2] == ("ambiguous", None)
    assert meaning("1,234", "point_grouped")[:2] == ("number", 1234.0)
    assert meaning("1.234", "comma_grouped")[:2] == ("number", 1234.0)
    assert meaning("1.234,5", "comma")[:2] == ("number", 1234.5)
    assert parse(["1,234"])[0]["reading_a"] == 1.234
    assert parse(["1,234"])[0]["reading_b"] == 1234.0
    with pytest.raises(ValueError, match="klingon"):
        parse(["1"], "klingon")


def test_the_organism_in_the_text_is_kept_apart() -> None:
    assert parse(["INFLUENZA B NOT DETECTED"])[0]["value_target"] == "influenza_b"
    assert parse(["POSITIVE"])[0]["value_target"] is None


def _written(value: float, digits: int, locale: str, grouped: bool) -> str:
    text = f"{value:,.{digits}f}" if grouped else f"{value:.{digits}f}"
    return text if locale.startswith("point") else text.translate(str.maketrans(",.", ".,"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1e9, 1e9, allow_nan=False), st.integers(0, 6)), min_size=1, max_size=30),
    st.sampled_from(LOCALES),
    st.sampled_from(["", "<", ">=", "LESS THAN "]),
)
def test_a_number_its_locale_writes_reads_back_or_is_called_ambiguous(
    numbers: list[tuple[float, int]], locale: str, sign: str
) -> None:
    grouped = locale.endswith("grouped")
    texts = [sign + _written(value, digits, locale, grouped) for value, digits in numbers]
    for (value, digits), text, row in zip(numbers, texts, parse(list(texts), locale), strict=True):
        if row["value_kind"] in ("instrument_error", "ambiguous"):
            continue
        assert row["value_kind"] == ("censored" if sign else "number"), text
        assert row["value_number"] == float(f"{value:.{digits}f}"), text
        assert row["comparator"] == {"": None, "<": "<", ">=": ">=", "LESS THAN ": "<"}[sign]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=40), min_size=1, max_size=60), st.sampled_from(LOCALES))
def test_any_text_has_a_kind_and_no_number_without_digits(texts: list[str], locale: str) -> None:
    for text, row in zip(texts, parse(list(texts), locale), strict=True):
        assert row["value_kind"] in VALUE_KINDS
        if not any(c.isdecimal() for c in text):
            assert row["value_number"] is None
        if row["value_kind"] not in USABLE_KINDS:
            assert row["value_number"] is None and row["value_code"] is None


_PIECES = st.sampled_from(
    [
        "5",
        "12",
        "0.5",
        "1,234",
        "<",
        ">",
        "<=",
        ">=",
        "-",
        ":",
        "/",
        "+",
        "E",
        "e3",
        ".",
        ",",
        "%",
        "mg/dL",
        "H",
        "NEG",
        "POSITIVE",
        "NOT",
        "DETECTED",
        "NO",
        "SEEN",
        "LESS",
        "THAN",
        "TO",
        "1",
        "80",
        "MAY",
        "(",
        ")",
        "'",
        "#",
    ]
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(_PIECES, min_size=1, max_size=6), min_size=1, max_size=60), st.sampled_from(["", " "]))
def test_fragments_never_lose_a_comparator_nor_turn_a_negation_round(texts: list[list[str]], glue: str) -> None:
    joined = [glue.join(pieces) for pieces in texts]
    for text, row in zip(joined, parse(list(joined)), strict=True):
        signs = any(s in text for s in "<>") or "LESS THAN" in text
        if signs and row["value_number"] is not None:
            assert row["comparator"] is not None, text
        if ("NOT" in text or "NO " in text or "NEG" in text) and row["value_code"] is not None:
            assert row["value_code"] != "POSITIVE", text
        if row["value_kind"] == "number":
            # the digits read are the digits written, in their order
            written = "".join(c for c in text if c.isdigit())
            assert (
                "".join(c for c in f"{row['value_number']:f}" if c.isdigit()).strip("0") in written or "e3" in text.lower()
            )


def test_negations_of_every_positive_word_are_never_positive() -> None:
    words = REFERENCE.value_codes.filter((pl.col("code") == "POSITIVE") & (pl.col("match") == "exact"))["text"].to_list()
    for prefix in ("NOT ", "NON ", "NON-", "NO ", "UN", "NICHT ", "NIET ", "NAO ", "INFLUENZA A NOT ", "NEVER ", "NOT YET "):
        for text, row in zip(words, parse([prefix + w for w in words]), strict=True):
            assert row["value_code"] != "POSITIVE", prefix + text


@pytest.mark.slow
@pytest.mark.parametrize("locale", LOCALES)
def test_a_hundred_thousand_strings(locale: str) -> None:
    """25,000 per locale, of pieces and of arbitrary characters: a kind for each, no exception, the invariants above."""
    rng = np.random.default_rng(LOCALES.index(locale))
    words = [*REFERENCE.value_codes["text"].to_list(), *REFERENCE.comparator_words["text"].to_list()]
    units = REFERENCE.unit_aliases["alias"].to_list()
    pieces = [*"0123456789.,<>=+-/:*()%^'\"~# \u00a0µ×≤²", *[str(n) for n in range(0, 400, 7)], *words, *units]
    drawn = rng.choice(np.array(pieces, dtype=object), (20_000, 6))
    cut = rng.integers(1, 7, 20_000)
    texts = ["".join(row[:n]) for row, n in zip(drawn, cut, strict=True)]
    texts += ["".join(map(chr, row)) for row in rng.integers(1, 0xD7FF, (5_000, 12))]
    for text, row in zip(texts, parse(texts, locale), strict=True):
        assert row["value_kind"] in VALUE_KINDS, text
        if row["value_kind"] not in USABLE_KINDS:
            assert row["value_number"] is None and row["value_code"] is None, text
        if row["value_kind"] == "number":
            assert not any(sign in text for sign in "<>≤≥"), text
        if row["value_number"] is not None:
            assert np.isfinite(row["value_number"]), text


def test_huge_and_broken_fields_cost_nothing() -> None:
    start = time.perf_counter()
    rows = parse(["9" * 10_000_000, "<" * 10_000_000, "\x00\x01", "'" * 150, "(" * 199, "1:" * 90, None])
    assert [r["value_kind"] for r in rows[:2]] == ["unreadable", "unreadable"]
    assert time.perf_counter() - start < 60  # a guard against catastrophic matching, not a timing


def test_one_batch_and_many_batches_say_the_same() -> None:
    texts = ["5.2", "<1", "NEG", None, "1,234", "TR", "x" * 500] * 50
    frame = pl.DataFrame({"text": texts, "locale": ["point", "comma"] * 175})
    expression = parse_values(pl.col("text"), pl.col("locale"), REFERENCE).alias("v")
    whole = frame.select(expression).unnest("v")
    parts = pl.concat([frame[i : i + 7].select(expression) for i in range(0, 350, 7)]).unnest("v")
    assert whole.equals(parts)
    assert whole.schema == pl.Schema(VALUE_FIELDS)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.from_regex(r"(?:[<>]=?|-)?[0-9]{1,15}(?:\.[0-9]{1,15})?", fullmatch=True), min_size=1, max_size=40, unique=True
    ),
    st.sampled_from(LOCALES),
)
def test_the_short_way_reads_as_the_whole_grammar(texts: list[str], locale: str) -> None:
    frame = pl.DataFrame({"text": texts}).with_columns(locale=pl.lit(locale))
    grammar = Grammar(REFERENCE)
    whole = grammar._read(grammar._words.cleaned(frame), locale).select(*VALUE_FIELDS)
    assert_frame_equal(grammar.parse(frame), whole)
