"""HL7 time stamps (TS, DTM) to ISO 8601 text, and ages, vectorised over a column.

Not here: zones and days (``sources.times``, ``sources.conform``).
"""

from __future__ import annotations

import polars as pl

_STAMP = r"^(\d{8}(?:\d\d){0,3})(?:\.\d+)?(?:[+-]\d{4})?$"
_OFFSET = r"^\d{8,14}(?:\.\d+)?([+-](?:0\d|1[0-4])[0-5]\d)$"
_FRACTION = r"^\d{14}(\.\d{1,6})"
#: Years at which a band begins; the bands of the demo laboratory and of critical_limits.csv.
_BANDS = ((80, "80+"), (65, "65-79"), (45, "45-64"), (18, "18-44"), (1, "1-17"))


def iso_text(stamp: pl.Expr, default_offset: pl.Expr | None = None) -> pl.Expr:
    """ISO 8601 text of a stamp; anything else stays as it is and is flagged as unparseable later.

    A stamp with a time of day and no offset takes the message's own (MSH-7: chapter 2, section 2.A.22), a date none.
    """
    stamp = stamp.str.strip_chars()
    digits = stamp.str.extract(_STAMP, 1)
    full = digits.str.pad_end(14, "0")
    day = pl.concat_str(full.str.slice(0, 4), full.str.slice(4, 2), full.str.slice(6, 2), separator="-")
    clock = pl.concat_str(full.str.slice(8, 2), full.str.slice(10, 2), full.str.slice(12, 2), separator=":")
    own = stamp.str.extract(_OFFSET, 1)
    has_sign = stamp.str.contains(r"[+-]\d{4}$")
    if default_offset is not None:
        own = pl.when(has_sign).then(own).otherwise(default_offset)
    moment = pl.concat_str(day, pl.lit("T"), clock, stamp.str.extract(_FRACTION, 1).fill_null(""), own.fill_null(""))
    broken = has_sign & stamp.str.extract(_OFFSET, 1).is_null()
    return (
        pl.when(digits.is_null() | broken).then(stamp)
        .when(digits.str.len_chars() == 8).then(day)
        .otherwise(moment)
    )  # fmt: skip


def offset_of(stamp: pl.Expr) -> pl.Expr:
    """The UTC offset a stamp carries, ``+hhmm``; null without one."""
    return stamp.str.strip_chars().str.extract(_OFFSET, 1)


def age_band(birth: pl.Expr, at: pl.Expr) -> pl.Expr:
    """The age band at ``at`` (ISO text) of someone born on ``birth`` (TS); null where either is unknown or reversed."""
    born = birth.str.slice(0, 8).str.to_date("%Y%m%d", strict=False)
    day = at.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)
    days = (day - born).dt.total_days()
    years = day.dt.year() - born.dt.year() - (day.dt.strftime("%m%d") < born.dt.strftime("%m%d")).cast(pl.Int32)
    band = pl.when(days < 0).then(None).when(days <= 28).then(pl.lit("0-28 d")).when(years < 1).then(pl.lit("1-12 m"))
    for low, name in reversed(_BANDS):
        high = next((edge for edge, _ in reversed(_BANDS) if edge > low), 200)
        band = band.when((years >= low) & (years < high)).then(pl.lit(name))
    return band
