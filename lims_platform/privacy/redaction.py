"""Identifiers inside sentences, replaced by their pseudonyms so that look-back still works.

Here: finding them in free text, vectorised over distinct texts. Not here: how a pseudonym is made (``pseudonyms``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

#: "MRN 12345", "patient no. AB-4711", "Pat.-ID: 0815": a word for a patient, then something with at least four digits.
GENERIC = (
    r"(?i)(\b(?:MRN|PID|(?:patient(?:en)?|pat\.?)[\s-]*(?:id|no|nr|num|number|nummer)?)\b\.?[\s:#=-]*)"
    r"([a-z]{0,4}-?[0-9]{4,12})\b"
)
#: A private-use character that marks where an identifier begins and ends; removed from texts that carry it themselves.
_MARK = "\ue0ff"
#: Identifiers shorter than this, or without a letter, are too easily a measured value.
_KNOWN_LENGTH = 5
#: Above so many pieces of texts all known identifiers are looked for instead.
_MOST_PIECES = 2_000_000
_WORD = r"[\p{Alphabetic}\p{N}]"


def redact(
    texts: pl.Series,
    patterns: Mapping[str, str],
    known: Mapping[str, pl.Series],
    pseudonyms: Callable[[pl.Series, str], pl.Series],
) -> pl.Series:
    """Free text without identifiers.

    Three rules, in this order, none touching what an earlier one replaced: the source's own patterns; the generic words for
    a patient number (domain "patient"); whole words equal to an identifier of the same frame of at least five characters,
    one of them a letter.

    Args:
        texts: one free text column.
        patterns: domain to regular expression (Rust syntax, no look-around).
        known: domain to the raw identifiers of the same rows.
        pseudonyms: makes pseudonyms of a column, given the domain.

    Returns:
        Text of the same length and name; null stays null; a text without identifiers is unchanged.
    """
    distinct = texts.drop_nulls().unique().to_frame("text")
    words = {domain: _occurring(_worth_finding(values), distinct["text"]) for domain, values in known.items()}
    suspect = pl.any_horizontal(
        pl.col("text").str.contains(GENERIC),
        *(pl.col("text").str.contains(p) for p in patterns.values()),
        *(pl.col("text").str.contains_any(w.implode()) for w in words.values() if w.len()),
    )
    touched = distinct.filter(suspect)
    if touched.is_empty():
        return texts
    parts = touched.with_row_index("row").select(
        "row", pl.col("text").str.replace_all(_MARK, "", literal=True).alias("part"), domain=pl.lit(None, pl.String)
    )
    for domain, pattern in patterns.items():
        # each match, whatever groups the laboratory's pattern has of its own
        parts = _split(parts, pl.col("part").str.replace_all(pattern, f"{_MARK}${{0}}{_MARK}"), domain)
    parts = _split(parts, pl.col("part").str.replace_all(GENERIC, f"${{1}}{_MARK}${{2}}{_MARK}"), "patient")
    for domain, values in words.items():
        if values.len():
            marked = pl.col("part").str.replace_many(values.implode(), (_MARK + values + _MARK).implode(), leftmost=True)
            parts = _split(parts, marked, domain, whole_words=True)
    joined = _replaced(parts, pseudonyms)
    table = pl.DataFrame({"text": touched["text"], "clean": joined})
    name = texts.name
    return (
        texts.to_frame("text")
        .join(table, on="text", how="left", maintain_order="left")
        .select(pl.coalesce("clean", "text").alias(name))
        .to_series()
    )


def _worth_finding(values: pl.Series) -> pl.Series:
    """Distinct identifiers that can be looked for in sentences; longest first decides between overlapping ones."""
    clean = values.cast(pl.String).str.strip_chars().drop_nulls().unique().alias("v").to_frame()
    wanted = (pl.col("v").str.len_chars() >= _KNOWN_LENGTH) & pl.col("v").str.contains(r"\p{Alphabetic}")
    return clean.filter(wanted).sort(pl.col("v").str.len_chars(), descending=True)["v"]


def _occurring(words: pl.Series, texts: pl.Series) -> pl.Series:
    """The words that are a piece of any text: looking up every piece is cheaper than an automaton of all patients."""
    texts = texts.str.replace_all(_MARK, "", literal=True)
    long = texts.filter((texts.str.len_chars() >= _KNOWN_LENGTH) & texts.str.contains(r"\p{Alphabetic}")).to_frame("text")
    lengths = words.str.len_chars().unique()
    if long["text"].str.len_chars().sum() * lengths.len() > _MOST_PIECES:
        return words
    starts = pl.int_ranges(0, pl.col("text").str.len_chars())
    places = long.with_columns(at=starts).explode("at")
    pieces = [places.select(piece=pl.col("text").str.slice(pl.col("at"), length))["piece"] for length in lengths]
    return words.filter(words.is_in(pl.concat([words.clear(), *pieces]).unique().implode()))


def _split(parts: pl.DataFrame, marked: pl.Expr, domain: str, *, whole_words: bool = False) -> pl.DataFrame:
    """Cut parts that are still plain text at the marks: every second piece is an identifier of ``domain``."""
    cut = parts.with_columns(
        pl.when(pl.col("domain").is_null()).then(marked).otherwise(pl.col("part")).str.split(_MARK).alias("part"),
    ).with_columns(at=pl.int_ranges(0, pl.col("part").list.len()))
    cut = cut.with_row_index("whole").explode("part", "at")
    inside = (pl.col("at") % 2 == 1) & pl.col("domain").is_null()
    if whole_words:
        before = pl.col("part").shift(1).over("whole").fill_null("")
        after = pl.col("part").shift(-1).over("whole").fill_null("")
        inside &= ~before.str.contains(_WORD + "$") & ~after.str.contains("^" + _WORD)
    return cut.select("row", "part", pl.when(inside).then(pl.lit(domain)).otherwise("domain").alias("domain"))


def _replaced(parts: pl.DataFrame, pseudonyms: Callable[[pl.Series, str], pl.Series]) -> pl.Series:
    """Put the parts of each row together again, identifiers as pseudonyms."""
    parts = parts.with_row_index("order")
    frames = [parts.filter(pl.col("domain").is_null())]
    for (domain,), group in parts.drop_nulls("domain").group_by("domain"):
        frames.append(group.with_columns(part=pseudonyms(group["part"], str(domain)).fill_null("")))
    whole = pl.concat(frames).sort("order").group_by("row", maintain_order=True).agg(pl.col("part").str.join(""))
    return whole.sort("row")["part"]
