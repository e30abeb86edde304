"""The value grammar: what a result's text says, as kind, number, upper end, comparator and code.

Here: one text to one meaning, whatever the test. Not here: number formats (``number_text``), units (``units``), or
whether the meaning fits the test (``standardise``). A text that is not understood whole is never understood in part.
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.distinct import per_distinct
from lims_platform.laboratory.number_text import LOCALES, NUMBER, read_numbers
from lims_platform.laboratory.units import alias_table, fold_unit
from lims_platform.laboratory.value_patterns import (
    ERROR_CODE,
    FLAG,
    FLAG_BEFORE,
    INTERVAL,
    MAX_LENGTH,
    MONTH_NUMBER,
    MONTH_TEXT,
    NEGATION,
    NOTHING_SEEN,
    NUMBER_DATE,
    PLAIN,
    PLUS,
    SENTINEL,
    SIGNED,
    TOO_LONG,
    escape,
)
from lims_platform.laboratory.value_words import Words, as_word

VALUE_FIELDS: dict[str, pl.DataType] = {
    "value_kind": pl.String(),
    "value_number": pl.Float64(),
    "value_upper": pl.Float64(),
    "comparator": pl.String(),
    "value_code": pl.String(),
    "value_unit": pl.String(),
    "value_target": pl.String(),
    "reading_a": pl.Float64(),
    "reading_b": pl.Float64(),
    "value_note": pl.String(),
}
#: Kinds a usable result can have.
USABLE_KINDS = ("number", "censored", "range", "titre", "ordinal", "coded")
VALUE_KINDS = (*USABLE_KINDS, "not_done", "instrument_error", "ambiguous", "unreadable", "missing")


def parse_values(text: pl.Expr, locale: pl.Expr | str, reference: Reference) -> pl.Expr:
    """What each text says, as a struct with the fields VALUE_FIELDS; lazy, one Python call per batch.

    ``locale`` is one of number_text.LOCALES for all rows, or an expression giving it per row. value_number is the
    number, the limit of a censored value, the lower end of a range, or the denominator of a titre; it is null for
    ordinal values, whose code has a rank in value_codes.csv, so that no rank is averaged. value_unit is a unit
    written behind the number, value_target an organism named with a code. reading_a and reading_b are the two
    readings of an ambiguous number, or the ends of a range that became a date. The value_code of a number is its rank
    should the test be semi-quantitative ("+2"). A text outside the grammar is 'unreadable'; no text raises.
    """
    column = pl.when(text.str.len_bytes() > MAX_LENGTH).then(pl.lit(TOO_LONG)).otherwise(text)
    grammar = Grammar(reference)
    rule = pl.lit(locale) if isinstance(locale, str) else locale
    return per_distinct({"text": column, "locale": rule}, grammar.parse, VALUE_FIELDS)


def means_its_digits(text: pl.Expr, locale: pl.Expr) -> pl.Expr:
    """True for a plain number, which no state of the reference tables reads otherwise; never null."""
    digits = text.str.contains(PLAIN) & ~text.str.contains(SENTINEL)
    return (digits & _point_is_decimal(text, locale)).fill_null(False)


def _point_is_decimal(text: pl.Expr, locale: pl.Expr) -> pl.Expr:
    """Where a comma separates decimals, a point may separate thousands."""
    return locale.str.starts_with("point") | ~text.str.contains(".", literal=True)


class Grammar:
    """The grammar over one state of the reference tables. ``parse`` is pure; the object only holds the compiled word
    lists.
    """

    def __init__(self, reference: Reference) -> None:
        self._words = Words(reference)
        before, after = ("|".join(escape(w) for w in side) for side in (self._words.before, self._words.after))
        # "none", "n/a" and the like are words for no unit in a unit column; behind a number they are noise
        units = alias_table(reference).filter(pl.col("unit") != "1")
        self._units = units.select("folded", pl.lit(True).alias("is_unit"))
        self._numeric = (
            rf"(?i)^{FLAG_BEFORE}?(?P<sign>{before})? ?(?P<first>[+-]?{NUMBER})"
            rf"(?:(?: ?(?:-|\.\.\.?|…) ?| to | bis | a | al | until | hasta | tot )(?P<second>{NUMBER}))?"
            rf"(?: ?(?P<tail>[a-z%#/°µμ\[{{(*!↑↓,;=:+][^<>≤≥]{{0,40}}?))??(?: ?,? ?(?P<behind>{after}))?$"
        )
        self._titre = (
            rf"(?i)^(?P<sign>{before})? ?1 ?(?P<mark>[:/]|in ) ?(?P<first>[0-9]{{1,7}})(?: ?(?P<tail>[a-z(,;].{{0,30}}))?$"
        )

    def parse(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Columns text and locale to the VALUE_FIELDS, row for row. Raises ValueError for an unknown locale."""
        unknown = frame.filter(~pl.col("locale").is_in(LOCALES) | pl.col("locale").is_null())["locale"].unique().to_list()
        if unknown:
            raise ValueError(f"number locale {unknown[0]!r} is none of {', '.join(LOCALES)}")
        rows = frame.select("text", "locale").with_row_index("__row__")
        # nine results in ten are plain numbers or such a number behind a sign: they need none of what follows
        text, sign = pl.col("text"), pl.col("text").str.extract("^([<>]=?)")
        known = sign.is_in(list(self._words.before)) & ~text.is_in(self._words.whole)
        signed = text.str.contains(SIGNED) & known.fill_null(False) & _point_is_decimal(text, pl.col("locale"))
        plain = means_its_digits(text, pl.col("locale")) | signed.fill_null(False)
        comparator = sign.replace_strict(self._words.before, default=None, return_dtype=pl.String)
        done = rows.filter(plain).with_columns(
            [pl.lit(None, dtype).alias(name) for name, dtype in VALUE_FIELDS.items()]
        ).with_columns(
            value_kind=pl.when(comparator.is_null()).then(pl.lit("number")).otherwise(pl.lit("censored")),
            # adding 0.0 makes -0 and 0 one number
            value_number=text.str.strip_chars_start("<>=").cast(pl.Float64) + 0.0, comparator=comparator,
        )  # fmt: skip
        parts = [
            self._read(self._words.cleaned(part), str(part["locale"][0]))
            for part in rows.filter(~plain).partition_by("locale")
        ]
        kept = ["__row__", *VALUE_FIELDS]
        return pl.concat([done.select(kept), *[p.select(kept) for p in parts]]).sort("__row__").select(*VALUE_FIELDS)

    def _with_tail(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Reads what stands behind a number: a flag, a unit, a code, a reference interval, a remark; tail_ok is false for
        anything else.
        """
        titre = pl.col("titre").struct
        tail = (
            pl.when(titre.field("first").is_null())
            .then(pl.col("number").struct.field("tail"))
            .otherwise(titre.field("tail"))
        )
        tail = tail.str.replace(INTERVAL, " ").str.strip_chars().str.replace(self._words.remark, "").str.strip_chars()
        unflagged = (
            tail.str.replace(rf"(?i)^{FLAG}$", "").str.replace(rf"(?i)^{FLAG} ", "").str.replace(rf"(?i) {FLAG}$", "")
        ).str.strip_chars()
        # "copies/mL detected": a unit and a code
        pair = unflagged.str.extract_groups(r"^(?P<unit>[^ ,(]+)[ ,]+\(?(?P<word>[^()]+)\)?$").struct
        frame = frame.with_columns(
            tail=tail,
            unit_text=unflagged,
            tail_word=tail.str.to_uppercase().str.strip_chars(" ,;:=()[]"),
            pair_unit=pair.field("unit"),
            pair=as_word(pair.field("word")),
        )
        frame = self._words.lookup(frame, "pair", "pair")
        is_pair = (pl.col("pair_kind") == "coded").fill_null(False)
        frame = frame.with_columns(
            unit_text=pl.when(is_pair).then("pair_unit").otherwise("unit_text"),
            tail_word=pl.when(is_pair).then("pair").otherwise("tail_word"),
            folded=fold_unit(pl.when(is_pair).then("pair_unit").otherwise("unit_text")),
            is_pair=is_pair,
        )
        frame = frame.join(self._units, on="folded", how="left", maintain_order="left")
        frame = self._words.lookup(frame, "tail_word", "tail")
        is_unit = pl.col("is_unit").fill_null(False)
        # a code on either side of the number is one statement; two of them are two; "5.2 HIGH" is a flag
        coded = (pl.col("tail_kind") == "coded") & pl.col("head_code").is_null() & (pl.col("unit_text") != "")
        coded = coded.fill_null(False) & (is_unit == pl.col("is_pair"))
        return frame.with_columns(
            tail_ok=pl.col("tail").is_null() | (pl.col("unit_text") == "") | (is_unit & ~pl.col("is_pair")) | coded,
            value_unit=pl.when(is_unit & (pl.col("unit_text") != "")).then("unit_text"),
            number_code=pl.coalesce("head_code", pl.when(coded).then("tail_code")),
        )

    def _read(self, frame: pl.DataFrame, locale: str) -> pl.DataFrame:
        """The whole grammar for texts of one locale; adds VALUE_FIELDS."""
        frame = self._words.with_codes(frame)
        frame = frame.with_columns(
            pl.col("body").str.extract_groups(self._numeric).alias("number"),
            pl.col("body").str.extract_groups(self._titre).alias("titre"),
        )
        frame = self._with_tail(frame)
        first, second = pl.col("number").struct.field("first"), pl.col("number").struct.field("second")
        tokens = frame.select(first=first, second=second)
        one, two = read_numbers(tokens["first"], locale), read_numbers(tokens["second"], locale)
        before = pl.coalesce(pl.col("number").struct.field("sign"), pl.col("titre").struct.field("sign"))
        behind = pl.col("number").struct.field("behind").str.to_uppercase()
        behind = behind.replace_strict(self._words.after, default=None, return_dtype=pl.String)
        sign = before.str.to_uppercase().replace_strict(self._words.before, default=None, return_dtype=pl.String)
        frame = frame.with_columns(
            one["number"].alias("n1"),
            one["reading_a"].alias("n1a"),
            one["reading_b"].alias("n1b"),
            two["number"].alias("n2"),
            two["reading_a"].alias("n2a"),
            two["reading_b"].alias("n2b"),
            sign=pl.coalesce(sign, behind),
            two_signs=sign.is_not_null() & behind.is_not_null(),
            titre_n=pl.col("titre").struct.field("first").cast(pl.Float64, strict=False),
            **_date_ends(pl.col("clean").str.to_lowercase()),
        )
        return frame.with_columns(self._kind(first, second)).with_columns(**self._fields())

    def _kind(self, first: pl.Expr, second: pl.Expr) -> pl.Expr:
        """The one meaning of the text, in the order in which meanings exclude each other."""
        code_kind = pl.coalesce("word_kind", "bare_kind")
        # 1/80 is a dilution, 14/2 and 1/3 are not: the slash counts only with a denominator of a doubling series
        doubling = pl.col("titre_n").is_in([float(b * 2**k) for b in (1, 5, 25) for k in range(21) if b * 2**k >= 8])
        slash = pl.col("titre").struct.field("mark") == "/"
        numeric = first.is_not_null() & pl.col("tail_ok") & pl.col("titre_n").is_null() & ~pl.col("two_signs")
        titre = pl.col("titre_n").is_not_null() & pl.col("tail_ok") & (pl.col("titre_n") >= 1) & (~slash | doubling)
        # 05-10 and 10-5 are dates or slips, not intervals
        zero_led = first.str.contains(r"^[+-]?0[0-9]") | second.str.contains(r"^0[0-9]")
        two_readings = (
            pl.col("n1a").is_not_null()
            | pl.col("n1b").is_not_null()
            | pl.col("n2a").is_not_null()
            | pl.col("n2b").is_not_null()
        )
        word = pl.col("clean").str.to_lowercase()
        nothing = word.str.contains(NOTHING_SEEN) & ~word.str.slice(3).str.contains(NEGATION)
        return (
            pl.when(pl.col("text").is_null() | (pl.col("clean") == "")).then(pl.lit("missing"))
            .when(pl.col("clean").is_null()).then(pl.lit("unreadable"))
            .when(code_kind.is_not_null()).then(code_kind)
            .when(numeric & second.is_null() & first.str.contains(SENTINEL)).then(pl.lit("instrument_error"))
            .when(titre).then(pl.lit("titre"))
            .when(numeric & two_readings).then(pl.lit("ambiguous"))
            .when(numeric & second.is_not_null() & (zero_led | (pl.col("n1") > pl.col("n2")))).then(pl.lit("ambiguous"))
            .when(numeric & second.is_not_null() & pl.col("sign").is_null() & (pl.col("n1") <= pl.col("n2")))
            .then(pl.when(pl.col("number_code").is_null()).then(pl.lit("range")).otherwise(pl.lit("coded")))
            .when(numeric & second.is_null() & pl.col("n1").is_not_null())
            .then(
                pl.when(pl.col("number_code").is_not_null()).then(pl.lit("coded"))
                .when(pl.col("sign").is_not_null()).then(pl.lit("censored")).otherwise(pl.lit("number"))
            )
            .when(pl.col("target_code").is_not_null()).then(pl.lit("coded"))
            .when(nothing).then(pl.lit("nothing"))
            .when(pl.col("end_a").is_not_null()).then(pl.lit("ambiguous"))
            .when(pl.col("clean").str.contains(self._words.contains)).then(pl.lit("not_done"))
            .when(pl.col("clean").str.contains(ERROR_CODE)).then(pl.lit("instrument_error"))
            .otherwise(pl.lit("unreadable"))
            .alias("kind")
        )  # fmt: skip

    @staticmethod
    def _fields() -> dict[str, pl.Expr]:
        kind, whole = pl.col("kind"), pl.coalesce("word_kind", "bare_kind").is_null()
        counted = kind.is_in(["number", "censored", "range", "titre", "coded"]) & whole
        is_titre = kind == "titre"
        # which targets a numeric reading leaves alone: only a text that is a target and a code names an organism
        named = (kind == "coded") & whole & pl.col("n1").is_null() & pl.col("target_code").is_not_null()
        dated = (kind == "ambiguous") & pl.col("end_a").is_not_null()
        rank = pl.when(kind == "number").then(pl.col("clean").str.extract(PLUS))
        return {
            "value_kind": pl.when(kind == "nothing").then(pl.lit("coded")).otherwise(kind),
            "value_number": pl.when(is_titre).then("titre_n").when(counted & ~named).then("n1"),
            "value_upper": pl.when(counted & ~is_titre & ~named).then("n2"),
            "comparator": pl.when(counted & ~named).then("sign"),
            "value_code": pl.when(kind == "nothing").then(pl.lit("NEGATIVE"))
            .when(named).then("target_code")
            .when(~whole).then(pl.coalesce("word_code", "bare_code"))
            .when(kind.is_in(["coded", "titre"])).then("number_code")
            .when(rank.is_not_null()).then(rank + "+"),
            "value_unit": pl.when(kind.is_in(["number", "censored", "range", "ambiguous"])).then("value_unit"),
            "value_target": pl.when(named).then("target"),
            "reading_a": pl.when(dated).then("end_a").when(kind == "ambiguous").then("n1a"),
            "reading_b": pl.when(dated).then("end_b").when(kind == "ambiguous").then("n1b"),
            "value_note": pl.when(dated).then(pl.lit("a spreadsheet made a date of a range")),
        }  # fmt: skip


def _date_ends(text: pl.Expr) -> dict[str, pl.Expr]:
    """end_a and end_b of a text that is a date: day and month in order, the range a spreadsheet may have made it from;
    null where it is none.
    """
    named, whole = text.str.extract_groups(MONTH_TEXT), text.str.extract_groups(NUMBER_DATE)
    month = pl.coalesce(named.struct.field("2"), named.struct.field("3"))
    numbered = month.replace_strict(MONTH_NUMBER, default=None, return_dtype=pl.Int64)
    one = pl.coalesce(named.struct.field("1"), named.struct.field("4"), whole.struct.field("d1"), whole.struct.field("a"))
    one = one.cast(pl.Int64, strict=False)
    two = pl.coalesce(numbered, pl.coalesce(whole.struct.field("m1"), whole.struct.field("b")).cast(pl.Int64, strict=False))
    low, high = pl.min_horizontal(one, two), pl.max_horizontal(one, two)
    # neither part of 2024-13-45 is a month: no date, nothing to read. A month and a year ("May-2020") is no range either
    real = one.is_not_null() & two.is_not_null() & (low >= 1) & (low <= 12) & (high <= 99)
    return {"end_a": pl.when(real).then(low.cast(pl.Float64)), "end_b": pl.when(real).then(high.cast(pl.Float64))}
