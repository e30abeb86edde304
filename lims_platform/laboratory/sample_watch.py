"""Batch samples under watch: which are in order, which need a look, which cannot be trusted, and why in words.

Here: limits and tests put together into one verdict per sample. Not here: the limits (``sample_limits``), the tests
(``sample_statistics``), the words' layout (``sample_findings``), files (``reporting.sample_files``).

A batch is the frame given: centre and spread of every measurement are estimated from it, robustly. Alarms come from

1. a sensor fault: a fault code, a number that is not finite, text that is no number, a value no sample can have. CRITICAL;
2. a value beyond a critical limit of the laboratory. CRITICAL;
3. a value too far from the batch's centre to be chance. WARNING;
4. a run of consecutive values (in time, and in time within each facility) on one side: a shift, or one that grows; and a
   trend through the whole batch. WARNING;
5. a combination of values too rare for how the measurements go together. WARNING;
6. a batch whose centre lies outside the expected range, for its values that lie outside. WARNING.

A value just outside its expected range is shown in ``out_of_range`` and is no alarm: with pH N(7.2, 0.15), 18 % lie
outside 7.0 to 7.4 while nothing is wrong. ``false_alarms`` is the expected number of samples alarmed in a batch where
nothing is wrong, whatever its size. Isolation Forest was tried for 5 and not chosen: it has no limit with a known
false-alarm rate, and it ranks an odd combination of correlated sensors behind single tails (``benchmarks/samples.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from lims_platform.laboratory import sample_findings as words
from lims_platform.laboratory import sample_statistics as st
from lims_platform.laboratory.sample_limits import Limit, names_where, read_limits
from lims_platform.laboratory.sample_statistics import Centre, Floats, Ints

ALERTS = ("OK", "WARNING", "CRITICAL_FAILURE")

#: How the expected false alarms are spent; runs get little, because one false run is several samples at once.
_SHARE_VALUES, _SHARE_COMBINED, _SHARE_RUNS, _SHARE_TREND, _SHARE_CENTRE = 0.6, 0.25, 0.1, 0.005, 0.045
#: Chance that some value of a sound batch is left out of its own estimates as part of a suspected run.
_SUSPECT_SHARE = 0.05
#: A trend marks the samples that far, in SDs about it, from where it began.
_TREND_MARK = 2.0
_ID_COLUMNS = ("sample_id", "facility_id", "batch_id")


class SampleFrameError(ValueError):
    """The frame cannot be watched at all; the message names the columns that are missing."""


def watch(samples: pl.DataFrame, limits: pl.DataFrame, false_alarms: float = 0.05) -> pl.DataFrame:
    """The verdict on every sample of one batch; one row per row of ``samples``, in its order.

    ``samples``: raw batch_results (sample_id, facility_id, batch_id, timestamp, ph_level, storage_temp_c,
    dissolved_oxygen_ppm, turbidity_ntu, with fault codes such as -999 still in them, numbers or text) or rows of
    sample_measurements (measured_at instead of timestamp, sensor_faults naming what was taken out). sample_id and at
    least one measurement are needed, everything else may be absent or null. Time is a datetime, naive or not, or ISO
    text; without a time column the rows count as in time order, a row without time takes no part in runs.
    ``limits``: the table sample_limits. ``false_alarms``: see the module, greater than 0.

    Columns returned: sample_id, facility_id, batch_id (text), measured_at (datetime, null where unknown), the four
    measurements (null where faulty or absent), qa_alert (OK, WARNING, CRITICAL_FAILURE), reasons ('; '-joined words, null
    if none), sensor_faults and out_of_range (measurements joined by ';', null if none), z_<measurement> (distance from the
    batch's centre in its SDs, on the measurement's scale; null where not evaluable), mahalanobis_distance, outcome
    ("evaluated", or "not evaluable: …" naming what could not be tested; fault codes and critical limits always are).

    Raises SampleFrameError for missing columns, SampleLimitError for contradicting limits.
    """
    if not false_alarms > 0:
        raise ValueError(f"false_alarms is {false_alarms}; an expected number above 0 is needed")
    known = {name: limit for name, limit in read_limits(limits).items() if limit.watched}
    frame, absent = _readable(samples, known)
    frame = _with_faults(frame, known)
    findings = [words.faults(frame, known), words.critical(frame, known)]
    order = _orders(frame)
    z, centres = _standardised(frame, known, order, false_alarms)
    for name, centre in centres.items():
        findings += _single(frame, known[name], centre, z[name], order, false_alarms / len(known))
    distance, combined = _combined(frame, z, centres, false_alarms)
    findings.append(combined)
    outcome = _outcome(frame, known, centres, absent)
    return _verdict(frame, known, words.joined(findings), z, distance, outcome)


def _readable(samples: pl.DataFrame, known: Mapping[str, Limit]) -> tuple[pl.DataFrame, list[str]]:
    """The frame with every column the watch uses, numbers as numbers, and the measurements that were absent."""
    present = [name for name in known if name in samples.columns]
    lost = [name for name in ("sample_id",) if name not in samples.columns]
    if not present:
        lost.append("a measurement (" + ", ".join(known) + ")")
    if lost:
        raise SampleFrameError("samples: column missing: " + "; ".join(lost))
    columns = [
        pl.col(name).cast(pl.String) if name in samples.columns else pl.lit(None, pl.String).alias(name)
        for name in _ID_COLUMNS
    ]
    for name in known:
        if name in present:
            text = pl.col(name).str.strip_chars() if samples.schema[name] == pl.String else pl.col(name)
            number = text.cast(pl.Float64, strict=False)
            columns += [number.alias(name), (text.is_not_null() & number.is_null()).alias(f"_text_{name}")]
        else:
            columns += [pl.lit(None, pl.Float64).alias(name), pl.lit(False).alias(f"_text_{name}")]
    told = pl.col("sensor_faults").cast(pl.String).fill_null("").str.split(";")
    for name in known:
        before = told.list.contains(name) if "sensor_faults" in samples.columns else pl.lit(False)
        columns.append(before.alias(f"_before_{name}"))
    frame = samples.select(*columns, _time(samples).alias("measured_at"), pl.int_range(pl.len()).alias("_row"))
    return frame, [name for name in known if name not in present]


def _time(samples: pl.DataFrame) -> pl.Expr:
    name = next((n for n in ("measured_at", "timestamp") if n in samples.columns), None)
    if name is None:
        return pl.lit(None, pl.Datetime("us"))
    dtype = samples.schema[name]
    if dtype == pl.String:
        return pl.col(name).str.to_datetime(strict=False, time_unit="us", time_zone="UTC")
    if isinstance(dtype, pl.Datetime):
        return pl.col(name)
    return pl.col(name).cast(pl.Datetime("us"), strict=False)


def _with_faults(frame: pl.DataFrame, known: Mapping[str, Limit]) -> pl.DataFrame:
    """``_fault_<m>``, ``_raw_<m>`` (what was there), the measurement null where faulty, sensor_faults, out_of_range."""
    fault = {
        name: limit.fault(pl.col(name)).fill_null(False) | pl.col(f"_text_{name}") | pl.col(f"_before_{name}")
        for name, limit in known.items()
    }
    marked = frame.with_columns(
        *[test.alias(f"_fault_{name}") for name, test in fault.items()],
        *[pl.col(name).alias(f"_raw_{name}") for name in known],
    ).with_columns(pl.when(~pl.col(f"_fault_{name}")).then(pl.col(name)).alias(name) for name in known)
    return marked.with_columns(
        names_where({name: pl.col(f"_fault_{name}") for name in known}).alias("sensor_faults"),
        names_where({name: limit.outside(pl.col(name)) for name, limit in known.items()}).alias("out_of_range"),
    )


@dataclass(frozen=True)
class _Orders:
    """Rows in time order, and in time order within each facility; ``facility``: its number by row."""

    time: Ints
    grouped: Ints
    facility: Ints


def _orders(frame: pl.DataFrame) -> _Orders:
    """Rows without a time are left out; where no row has one they are in time order as they come."""
    time = frame["measured_at"]
    order = np.arange(frame.height)
    if time.null_count() < time.len():
        order = time.arg_sort(nulls_last=True).to_numpy().astype(np.int64)[: time.len() - time.null_count()]
    facility = frame["facility_id"].fill_null("").cast(pl.Categorical).to_physical().to_numpy().astype(np.int64)
    return _Orders(order, order[np.argsort(facility[order], kind="stable")], facility)


def _standardised(
    frame: pl.DataFrame, known: Mapping[str, Limit], order: _Orders, false_alarms: float
) -> tuple[dict[str, Floats], dict[str, Centre]]:
    """z and centre per measurement; values in a run take no part in the centre the others are held against."""
    scores, centres = {}, {}
    for name, limit in known.items():
        x = limit.transform(frame[name].cast(pl.Float64).fill_null(np.nan).to_numpy())
        scores[name] = np.full(frame.height, np.nan)
        floor = _floor(limit, x)
        centre = st.robust_centre(x, floor)
        if centre is None:
            continue
        # a long shift widens the spread that hides it: take it out, estimate again
        z = (x - centre.centre) / centre.spread
        in_run = np.zeros(x.size, dtype=np.bool_)
        for rows, runs in _scans(z, order, _SUSPECT_SHARE / len(known)):
            in_run[rows[st.places(runs.first, runs.stop)]] = True
        if in_run.any():
            centre = st.robust_centre(np.where(in_run, np.nan, x), floor) or centre
        scores[name], centres[name] = (x - centre.centre) / centre.spread, centre
    return scores, centres


def _floor(limit: Limit, x: Floats) -> float:
    """The resolution on the measurement's scale, at the batch's median."""
    finite = x[np.isfinite(x)]
    middle = float(np.median(finite)) if finite.size else 0.0
    if limit.scale == "linear":
        return limit.resolution
    value = max(middle**3, limit.resolution)
    return float(np.cbrt(value + limit.resolution) - np.cbrt(value))


def _scans(z: Floats, order: _Orders, share: float) -> list[tuple[Ints, st.Runs]]:
    """Runs in time, and in time within each facility where there are several. Rows by scanned place, and the runs.

    What a run in time explains is left out of the facilities' scan: its neighbours there would ride on it.
    """
    left = np.isfinite(z)
    rows = order.time[left[order.time]]
    facility = order.facility
    several = bool((facility[rows] != facility[rows[:1]]).any())
    limit = st.run_limit(share / (1 + several), max(rows.size, 1))
    runs = st.find_runs(z[rows], np.zeros(rows.size, dtype=np.int64), limit)
    if not several:
        return [(rows, runs)]
    left[rows[st.places(runs.first, runs.stop)]] = False
    rest = order.grouped[left[order.grouped]]
    return [(rows, runs), (rest, st.find_runs(z[rest], facility[rest], limit))]


def _single(
    frame: pl.DataFrame, limit: Limit, centre: Centre, z: Floats, order: _Orders, false_alarms: float
) -> list[pl.DataFrame]:
    """Findings of one measurement: values, runs, trend, and where the batch itself lies."""
    away = np.flatnonzero(np.abs(z) > st.value_limit(false_alarms * _SHARE_VALUES, centre.count))
    found = [words.unusual(frame, limit, centre, z, away)]
    quiet = z.copy()
    for rows, runs in _scans(z, order, false_alarms * _SHARE_RUNS):
        found.append(words.shifts(frame, limit, centre, rows, runs))
        quiet[rows[st.places(runs.first, runs.stop)]] = np.nan
    found.append(_trend(frame, limit, quiet, order.time, false_alarms * _SHARE_TREND))
    # of the batch as a whole: above or below what the laboratory expects, by more than its centre is uncertain
    margin = st.centre_limit(false_alarms * _SHARE_CENTRE, centre.count) * centre.spread / np.sqrt(centre.count)
    low, high = limit.transform(np.array([limit.expected_low, limit.expected_high], dtype=np.float64))
    if centre.centre < low - margin or centre.centre > high + margin:
        found.append(words.whole_batch(frame, limit, centre))
    return found


def _trend(frame: pl.DataFrame, limit: Limit, z: Floats, order: Ints, share: float) -> pl.DataFrame:
    rows = order[np.isfinite(z[order])]
    fitted = st.trend(z[rows])
    if fitted is None or abs(fitted[0]) <= st.centre_limit(share / 2, fitted[2].count):
        return words.NONE
    _, line, rest = fitted
    far = np.abs(line - line[0]) > _TREND_MARK * rest.spread
    return words.trends(frame, limit, rows[far], float(np.sign(line[-1] - line[0])))


def _combined(
    frame: pl.DataFrame, z: Mapping[str, Floats], centres: Mapping[str, Centre], false_alarms: float
) -> tuple[Floats, pl.DataFrame]:
    """Mahalanobis distance of every row, and the rows whose combination is more than chance where no one value is."""
    distance, used = st.combined_distance(np.column_stack(list(z.values())))
    count = int((used > 0).sum())
    far = np.zeros(frame.height, dtype=np.bool_)
    for width in np.unique(used[used > 1]):
        limit = st.distance_limit(false_alarms * _SHARE_COMBINED, max(count, st.LEAST_VALUES), int(width))
        far |= (used == width) & (distance > limit)
    for name, centre in centres.items():
        far &= ~(np.abs(z[name]) > st.value_limit(false_alarms * _SHARE_VALUES / len(z), centre.count))
    return distance, words.combinations(frame, z, distance, np.flatnonzero(far))


def _outcome(frame: pl.DataFrame, known: Mapping[str, Limit], centres: Mapping[str, Centre], absent: list[str]) -> pl.Series:
    """Per row: evaluated, or what could not be tested and why."""
    notes = [f"{known[name].label} is no column" for name in absent]
    notes += [
        f"{known[name].label} has {frame[name].count()} usable values, {st.LEAST_VALUES} needed"
        for name in known
        if name not in centres and name not in absent
    ]
    common = "evaluated" if not notes else "not evaluable: " + ", ".join(notes)
    nothing = pl.all_horizontal(pl.col(f"_raw_{name}").is_null() & ~pl.col(f"_fault_{name}") for name in known)
    return frame.select(
        pl.when(nothing).then(pl.lit("not evaluable: no measurement")).otherwise(pl.lit(common)).alias("outcome")
    ).to_series()


def _verdict(
    frame: pl.DataFrame,
    known: Mapping[str, Limit],
    findings: pl.DataFrame,
    z: Mapping[str, Floats],
    distance: Floats,
    outcome: pl.Series,
) -> pl.DataFrame:
    level = pl.col("_gravity").fill_null(0).replace_strict(dict(enumerate(ALERTS)), return_dtype=pl.String)
    scored = frame.with_columns(
        *[pl.Series(f"z_{name}", values, nan_to_null=True) for name, values in z.items()],
        pl.Series("mahalanobis_distance", distance, nan_to_null=True),
        outcome,
    )
    return (
        scored.join(findings, on="_row", how="left", maintain_order="left")
        .with_columns(level.alias("qa_alert"))
        .select(
            *_ID_COLUMNS, "measured_at", *known, "qa_alert", "reasons", "sensor_faults", "out_of_range",
            *[f"z_{name}" for name in known], "mahalanobis_distance", "outcome",
        )
    )  # fmt: skip
