"""Source times to UTC: naive, aware, dates and text, with a flag for everything that needed a rule.

Here: parsing, the repeated and the missing hour, the bounds of a calendar day in a source's zone.
Not here: which column dates a row (``conform``) or SQL (``dialects``).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC as UTC_ZONE
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import polars as pl

from lims_platform.contracts.source import UTC

#: Text times accepted without a declared format: ISO 8601 dates and date-times, optional fraction and offset.
#: Strict on purpose: SQL orders these texts as days, so reader and database must agree on which texts are times.
ISO = (
    r"^\d{4}-(?:(?:0[1-9]|1[0-2])-(?:0[1-9]|1[0-9]|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31|02-29)"
    r"(?:[ T] *(?:[01][0-9]|2[0-3]):[0-5][0-9](?::[0-5][0-9](?:\.[0-9]+)?)?(?: *(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?))?)? *$"
)
_OFFSET = r"[ T].*?(?P<offset>[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?) *$"
_NAIVE = pl.Datetime("us")
_FIRST, _LAST = datetime(1, 1, 1), datetime(9999, 12, 31)


@dataclass(frozen=True)
class Converted:
    """``values`` in UTC (null where unusable) and, per flag name, the mask of rows it holds for (absent: none).

    ``has_offset`` tells whether any text carried its own UTC offset.
    """

    values: pl.Series
    flags: dict[str, pl.Series] = field(default_factory=dict)
    has_offset: bool = False


def localise(naive: pl.Series, zone: str) -> Converted:
    """Naive local times to UTC.

    The repeated hour resolves to its first occurrence (flag ``ambiguous_local_time``). A time in the hour that does not
    exist is read with the offset in force before the gap, so it lands as much later as the gap is wide (flag
    ``nonexistent_local_time``): the rule of RFC 5545, section 3.3.5.

    Args:
        naive: Datetime without zone.
        zone: IANA zone of the times.
    """
    naive = naive.cast(_NAIVE)
    if zone in ("UTC", "Etc/UTC"):
        return Converted(naive.dt.replace_time_zone("UTC"))
    offset = _one_offset(naive, zone)
    if offset is not None:
        return Converted((naive - offset).dt.replace_time_zone("UTC"))
    flags: dict[str, pl.Series] = {}
    values = naive.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
    ambiguous = (values != naive.dt.replace_time_zone(zone, ambiguous="latest", non_existent="null")).fill_null(False)
    if ambiguous.any():
        flags["ambiguous_local_time"] = ambiguous
    values = values.dt.convert_time_zone("UTC")
    missing = values.is_null() & naive.is_not_null()
    if missing.any():
        flags["nonexistent_local_time"] = missing
        day = pl.duration(days=1)
        shifted = naive.to_frame("t").select(
            (pl.col("t") - day)
            .dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
            .dt.convert_time_zone("UTC")
            + day
        )
        values = values.zip_with(~missing, shifted.to_series())
    return Converted(values, flags)


def _one_offset(naive: pl.Series, zone: str) -> timedelta | None:
    """The zone's offset if it is one and the same on all days of the times, as in most extracts; None otherwise."""
    days = naive.dt.date().drop_nulls().unique().to_frame("day")
    midnight = pl.col("day").cast(_NAIVE)
    # both midnights of a day: a clock change in between makes them differ, one at midnight itself makes a null
    both = [
        at
        - at.dt.replace_time_zone(zone, ambiguous="null", non_existent="null")
        .dt.convert_time_zone("UTC")
        .dt.replace_time_zone(None)
        for at in (midnight, midnight + pl.duration(days=1))
    ]
    offsets = pl.concat([days.select(offset=one).to_series() for one in both]).unique()
    found: timedelta | None = offsets.item() if offsets.len() == 1 else None
    return found


def _parse_text(text: pl.Series, zone: str, time_format: str | None) -> Converted:
    """ISO 8601 first, then ``time_format``; what neither reads is null and flagged by the caller."""
    frame = text.to_frame("t").with_columns(
        iso=pl.col("t").str.contains(ISO), clean=pl.col("t").str.replace(r"[T ] *", " ").str.strip_chars(" ")
    )
    plain = pl.col("clean").str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us")
    frame = frame.with_columns(naive=pl.when("iso").then(plain))
    left = pl.col("naive").is_null() & pl.col("iso")
    has_offset = False
    instants = pl.Series("instant", [None] * text.len(), dtype=UTC)
    if frame.select(left.any()).item():
        offset = pl.col("clean").str.extract(_OFFSET, 1)
        digits = offset.str.replace_all(":", "").str.slice(1).str.pad_end(4, "0")
        hours, minutes = (digits.str.slice(i, 2).cast(pl.Int32, strict=False) for i in (0, 2))
        sign = pl.when(offset.str.starts_with("-")).then(-1).otherwise(1)
        shift = pl.duration(
            minutes=pl.when(offset.str.to_uppercase() == "Z").then(0).otherwise(sign * (hours * 60 + minutes))
        )
        bare = pl.col("clean").str.replace(r" *(?:[Zz]|[+-][0-9]{2}(?::?[0-9]{2})?)$", "")
        # "2024-01-01" ends in what looks like an offset; only texts with a time of day can carry one
        stem = pl.when(pl.col("clean").str.len_chars() > 10).then(bare).otherwise(pl.col("clean"))
        stamp = pl.coalesce(
            stem.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us"),
            stem.str.to_datetime("%Y-%m-%d %H:%M", strict=False, time_unit="us"),
            stem.str.to_date("%Y-%m-%d", strict=False).cast(_NAIVE),
        )
        carries = left & offset.is_not_null() & (pl.col("clean").str.len_chars() > 10)
        frame = frame.with_columns(
            naive=pl.when(left & ~carries).then(stamp).otherwise("naive"),
            instant=pl.when(carries).then(stamp - shift).dt.replace_time_zone("UTC"),
        )
        instants = frame["instant"]
        has_offset = bool(instants.is_not_null().any())
    if time_format is not None:
        # a format with an offset (%z) yields UTC instants, one without yields local times
        declared = pl.col("t").str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="us")
        aware = "%z" in time_format or "%:z" in time_format or "%#z" in time_format
        if aware:
            # exact=... cannot be inferred from an all-null column, so the zone is given
            declared = (
                pl.col("t").str.strip_chars().str.to_datetime(time_format, strict=False, time_unit="us", time_zone="UTC")
            )
            extra = frame.select(pl.when(pl.col("naive").is_null()).then(declared)).to_series()
            instants = instants.zip_with(instants.is_not_null(), extra)
        else:
            frame = frame.with_columns(naive=pl.coalesce("naive", pl.when(~pl.col("iso")).then(declared)))
    local = localise(frame["naive"], zone)
    values = local.values.zip_with(local.values.is_not_null(), instants) if has_offset or time_format else local.values
    return Converted(values, local.flags, has_offset)


def to_utc(series: pl.Series, zone: str, time_format: str | None = None) -> Converted:
    """Any column of times to UTC microseconds; never raises for a value.

    Args:
        series: Datetime (naive: in ``zone``; aware: converted), Date (midnight in ``zone``) or text; any other dtype is
            read as text. The empty text counts as absent.
        zone: IANA zone of naive values.
        time_format: strftime pattern tried where ISO 8601 does not match.

    Returns:
        Converted; flags are ``ambiguous_local_time``, ``nonexistent_local_time`` and ``unparseable_<column>``.
    """
    dtype = series.dtype
    if dtype == pl.Null:
        return Converted(series.cast(UTC))
    if isinstance(dtype, pl.Datetime | pl.Date):
        aware = isinstance(dtype, pl.Datetime) and dtype.time_zone is not None
        stamps = series.dt.convert_time_zone("UTC").cast(UTC) if aware else series.cast(_NAIVE)
        low, high = (x.replace(tzinfo=UTC_ZONE) if aware else x for x in (_FIRST, _LAST))
        # databases know infinity; connectors deliver it as a year no calendar has
        wild = ((stamps < low) | (stamps > high)).fill_null(False)
        if wild.any():
            stamps = stamps.zip_with(~wild, pl.Series([None], dtype=stamps.dtype))
        converted = Converted(stamps) if aware else localise(stamps, zone)
        present = series.is_not_null()
    else:
        text = series.cast(pl.String, strict=False)
        text = text.zip_with((text != "").fill_null(False), pl.Series([None], dtype=pl.String))
        converted = _parse_text(text, zone, time_format)
        present = text.is_not_null()
    lost = present & converted.values.is_null()
    flags = dict(converted.flags) | ({f"unparseable_{series.name}": lost} if lost.any() else {})
    return Converted(converted.values.cast(UTC).alias(series.name), flags, converted.has_offset)


def day_start(day: date, calendar: str, zone: str, slack: int) -> datetime:
    """The first instant of ``day`` in the laboratory's calendar, as a naive time of a source in ``zone``.

    Where the zones differ the bound is moved by three hours towards ``slack`` (-1 earlier, +1 later), more than any clock
    change, so that a range cut with it holds every row of the day; the reader filters exactly afterwards.
    """
    if calendar == zone:
        return datetime.combine(day, time.min)
    local = datetime.combine(day, time.min, ZoneInfo(calendar)).astimezone(ZoneInfo(zone)).replace(tzinfo=None)
    return local + timedelta(hours=3 * slack)


def day_start_utc(day: date, calendar: str) -> datetime:
    """The first instant of ``day`` in the laboratory's calendar, in UTC."""
    return datetime.combine(day, time.min, ZoneInfo(calendar)).astimezone(UTC_ZONE)
