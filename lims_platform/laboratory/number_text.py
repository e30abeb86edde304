"""How people and analysers write a number: decimal point or comma, thousands, sign, exponent.

Here: one number token to one float, or to the two readings it could have. Not here: comparators, ranges, words
(``values``).
"""

from __future__ import annotations

from typing import Literal, get_args

import polars as pl

#: What a source's numbers look like. The plain two say nothing of thousands, so "1,234" (point) and "1.234" (comma)
#: have two readings; the grouped two declare that the other mark groups thousands.
Locale = Literal["point", "comma", "point_grouped", "comma_grouped"]
LOCALES: tuple[str, ...] = get_args(Locale)

_POWER = r"(?: ?[x×*] ?10 ?(?:\^|\*\*|e) ?[+-]?[0-9]{1,4})"
#: A number token, to be embedded in a case-insensitive pattern. Spaces inside count only as thousands marks.
NUMBER = rf"(?:[0-9](?:[0-9.,'’ ]*[0-9])?|[.,][0-9]+)\.?(?:e[+-]?[0-9]{{1,4}}|{_POWER})?"


def read_numbers(tokens: pl.Series, locale: str) -> pl.DataFrame:
    """The readings of tokens matched by ``[+-]?`` NUMBER: columns number, reading_a, reading_b, one row per token.

    number: the only reading; null when there is none or more than one. reading_a and reading_b: the decimal and the
    thousands reading of an ambiguous token. The locale decides where it can ("1,234" is 1.234 in a comma locale); a
    token that only one convention can have produced ("1.234,5", "7,25", "1'000") is read so in either. Beyond
    float64's range, or rounded to zero by it, is no reading. Raises ValueError for an unknown locale.
    """
    if locale not in LOCALES:
        raise ValueError(f"number locale {locale!r} is none of {', '.join(LOCALES)}")
    comma, grouped = locale.startswith("comma"), locale.endswith("grouped")
    token = pl.col("token")
    frame = pl.DataFrame({"token": tokens.str.to_lowercase().str.replace_all("’", "'", literal=True)}).with_columns(
        sign=pl.when(token.str.starts_with("-")).then(-1.0).otherwise(1.0),
        exponent=token.str.extract(r"(?:e|10 ?(?:\^|\*\*|e)) ?([+-]?[0-9]{1,4})$").str.strip_prefix("+")
        .cast(pl.Int32, strict=False).fill_null(0),
        body=token.str.strip_prefix("+").str.strip_prefix("-").str.strip_chars()
        .str.replace(rf"(?:e[+-]?[0-9]{{1,4}}|{_POWER})$", "")
        # "5." is five; "01.02." is a day of February
        .str.replace(r"^([0-9,' ]+)\.$", "${1}"),
    )  # fmt: skip
    body = pl.col("body")
    frame = frame.with_columns(
        one_comma=body.str.contains(r"^[1-9][0-9]{0,2},[0-9]{3}$"),
        one_point=body.str.contains(r"^[1-9][0-9]{0,2}\.[0-9]{3}$"),
        bare_gap=body.str.contains(r"^[1-9][0-9]{0,2} [0-9]{3}$"),
        point_decimal=body.str.contains(r"^[0-9]*\.[0-9]+$"),
        comma_decimal=body.str.contains(r"^[0-9]*,[0-9]+$"),
        without_comma=body.str.replace_all(",", "", literal=True),
        without_point=body.str.replace_all(".", "", literal=True),
        comma_as_point=body.str.replace(",", ".", literal=True),
    )
    one_comma, one_point, bare_gap = pl.col("one_comma"), pl.col("one_point"), pl.col("bare_gap")
    two = (one_comma & (not comma) & (not grouped)) | (one_point & comma & (not grouped)) | (bare_gap & (not comma))
    # a source that declares both its marks never writes the other decimal mark: such a token is damaged, not foreign
    foreign = (pl.col("point_decimal") & ~one_point) if comma else (pl.col("comma_decimal") & ~one_comma)
    frame = frame.with_columns(two=two, damaged=foreign & grouped)
    digits = (
        pl.when(pl.col("two") | pl.col("damaged")).then(None)
        .when(one_comma & (not comma)).then("without_comma")
        .when(one_point & comma).then("without_point")
        .when(body.str.contains(r"^[0-9]+$") | pl.col("point_decimal")).then("body")
        .when(pl.col("comma_decimal")).then("comma_as_point")
        .when(body.str.contains(r"^[1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?$")).then("without_comma")
        .when(body.str.contains(r"^[1-9][0-9]{0,2}(?:\.[0-9]{3})+(?:,[0-9]+)?$"))
        .then(pl.col("without_point").str.replace(",", ".", literal=True))
        .when(body.str.contains(r"^[1-9][0-9]{0,2}(?:'[0-9]{3})+(?:[.,][0-9]+)?$"))
        .then(pl.col("comma_as_point").str.replace_all("'", "", literal=True))
        .when(body.str.contains(r"^[1-9][0-9]{0,2}(?: [0-9]{3})+(?:[.,][0-9]+)?$"))
        .then(pl.col("comma_as_point").str.replace_all(" ", "", literal=True))
    )  # fmt: skip
    thousands = pl.when(one_comma).then("without_comma").when(one_point).then("without_point")
    frame = frame.with_columns(
        digits=digits,
        decimal=pl.when((pl.col("two") & ~bare_gap) | pl.col("damaged")).then("comma_as_point"),
        whole=pl.when("two").then(pl.coalesce(thousands, body.str.replace_all(" ", "", literal=True))),
    )
    return frame.select(number=_float("digits"), reading_a=_float("decimal"), reading_b=_float("whole"))


def _float(digits: str) -> pl.Expr:
    """Column of digits with the columns sign and exponent as float64, correctly rounded; null where that is not
    finite or loses every digit.
    """
    power = pl.col("exponent")
    written = pl.when(power == 0).then(pl.col(digits)).otherwise(pl.col(digits) + "e" + power.cast(pl.String))
    value = written.cast(pl.Float64, strict=False)
    lost = (value == 0.0) & pl.col(digits).str.contains("[1-9]")
    # adding 0.0 makes -0 and 0 one number
    return pl.when(value.is_finite() & ~lost).then(pl.col("sign") * value + 0.0)
