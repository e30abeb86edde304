"""Outbreak features: positives and tests of pathogens by day of specimen collection, each patient counted once.

Here: who counts on which day, the windows, the season, simple cluster scores and the risk score. Not here: how many
positives a week should have and how many are too many (``outbreak_detector``).

A row dated D uses what was known at the end of D (see ``asof``). Specimens taken in the last days whose result came
later are not in it, as they were not when the day was lived.
"""

from __future__ import annotations

import math
from datetime import date
from functools import reduce

import numpy as np
import polars as pl
import scipy  # scipy.stats loads at its first use: the code location, which imports this module, has to be there at once

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory import outbreak_detector
from lims_platform.laboratory.asof import (
    Frame,
    days_between,
    known_days,
    latest_known,
    local_date,
    windowed_arrays,
    windowed_sums,
)

ALL_SITES = "ALL"
UNKNOWN_SITE = "UNKNOWN"
EPISODE_DAYS = 90
POSITIVE_CODES = ("POSITIVE", "WEAK_POSITIVE", "PRESUMPTIVE_POSITIVE")
NEGATIVE_CODES = ("NEGATIVE", "PRESUMPTIVE_NEGATIVE")

#: Days of results a row can depend on, its own included: what lies further back is forgotten, so that a day built alone
#: equals the same day built within a range. Two years of season and the time around them.
LOOKBACK_DAYS = 800
#: The season: the same week and its two neighbours of up to so many past years, 364 days apart to keep the weekday.
BASELINE_YEARS = 2
YEAR_DAYS = 364
#: Without a past year: so many weeks before D, leaving out the last ones, which an outbreak may already have raised.
RECENT_WEEKS = 8
RECENT_WEEKS_LEFT_OUT = 3
#: The temporal score compares 7 days with so many before them.
COMPARISON_DAYS = 28
#: Added to the comparison's count, so that silence before a first case is no certainty.
PRIOR_CASES = 0.5
SCORE_CAP = 10.0

#: Risk score: weight of each part, and the value at which the part is full.
RISK_PARTS: dict[str, tuple[float, float]] = {
    "temporal_cluster_score": (50.0, 6.0),
    "seasonal_deviation": (30.0, 5.0),
    "geographic_cluster_score": (20.0, 0.5),
}
#: Fewer positives than this in 7 days weigh proportionally less: one case is no cluster.
FULL_WEIGHT_CASES = 5
HIGH_RISK = 60.0
MEDIUM_RISK = 30.0

_KEY = ["loinc_code", "facility_id"]
_DAY = [*_KEY, "as_of_date"]


def counted_patients(
    history: Frame, loinc_codes: list[str], calendar: str, episode_days: int = EPISODE_DAYS
) -> pl.DataFrame:
    """The results that stand for a patient, each with the days on which it does.

    ``history``: lab_results_history. Dated by day of collection (by day of result where it is absent). On a day D, of
    the results known at its end: a positive counts if the patient had no positive of the pathogen in the
    ``episode_days`` before it; a negative counts if the patient had no test in the ``episode_days`` before it and no
    positive within ``episode_days`` on either side. So a patient is one test and at most one positive per unbroken
    episode, and the first positive takes the place of an earlier negative once it is known. A result without a
    patient is a patient of its own.

    Returns loinc_code, facility_id, event_date, positive, first_day, last_day; a result may have several spells, none
    beyond LOOKBACK_DAYS from the day of the result.
    """
    rows = (
        known_days(history, calendar)
        .filter(
            pl.col("loinc_code").is_in(loinc_codes),
            pl.col("reason").is_null(),
            pl.col("value_code").is_in([*POSITIVE_CODES, *NEGATIVE_CODES]),
        )
        .select(
            "loinc_code",
            # pl.format panics on a frame without rows (polars 2.1)
            pl.coalesce("patient_hash", pl.lit("row ") + pl.col("row_key")).alias("patient"),
            pl.col("facility_id").fill_null(UNKNOWN_SITE),
            pl.coalesce(local_date(pl.col("collected_at"), calendar), "event_date").alias("event_date"),
            pl.coalesce("collected_at", "resulted_at", "known_from").alias("at"),
            pl.col("value_code").is_in(POSITIVE_CODES).alias("positive"),
            pl.col("first_day"),
            pl.min_horizontal("last_day", pl.col("event_date") + pl.duration(days=LOOKBACK_DAYS - 1)).alias("last_day"),
            "row_key",
            "row_version",
        )
        .with_columns(pl.max_horizontal("first_day", "event_date"))
        .filter(pl.col("last_day") >= pl.col("first_day"))
        .sort("loinc_code", "patient", "at", "row_key", "row_version")
        .with_row_index("row")
        .collect()
    )
    columns = ["loinc_code", "facility_id", "event_date", "positive", "first_day", "last_day"]
    often = rows.filter(pl.len().over("loinc_code", "patient") > 1)
    once = rows.join(often.select("row"), on="row", how="anti")
    return pl.concat([once.select(columns), _uncovered(often, _suppressions(often, episode_days)).select(columns)])


def _suppressions(rows: pl.DataFrame, episode_days: int) -> pl.DataFrame:
    """For each row the spells of knowledge (from, to) of the rows that take its place."""
    other = rows.select(
        "loinc_code",
        "patient",
        pl.col("row").alias("by"),
        pl.col("row_key").alias("by_key"),
        pl.col("event_date").alias("by_date"),
        pl.col("positive").alias("by_positive"),
        pl.col("first_day").alias("from"),
        pl.col("last_day").alias("to"),
    )
    pairs = rows.join(other, on=["loinc_code", "patient"]).filter(pl.col("row_key") != pl.col("by_key"))
    days = (pl.col("event_date") - pl.col("by_date")).dt.total_days()
    earlier = (pl.col("by") < pl.col("row")) & (days < episode_days)
    positive_near = pl.col("by_positive") & (days.abs() < episode_days)
    takes_place = pl.when("positive").then(earlier & pl.col("by_positive")).otherwise(earlier | positive_near)
    return pairs.filter(takes_place).select("row", "from", "to")


def _uncovered(rows: pl.DataFrame, covers: pl.DataFrame) -> pl.DataFrame:
    """The parts of each row's spell (first_day, last_day) that no cover (from, to) reaches; null ends are open."""
    never = date(9999, 12, 31)
    spells = rows.with_columns(pl.col("last_day").fill_null(never))
    # each cover, and a last one just after the spell: the gap before it is the spell's end
    walls = pl.concat(
        [
            covers.with_columns(pl.col("to").fill_null(never)),
            spells.select("row", pl.lit(never).alias("from"), pl.lit(never).alias("to")),
        ]
    ).sort("row", "from", "to")
    day = pl.duration(days=1)
    reached = pl.col("to").cum_max().shift(1).over("row")
    gaps = (
        walls.with_columns(reached.alias("reached"))
        .join(spells, on="row")
        .with_columns(
            pl.max_horizontal(
                "first_day", pl.when(pl.col("reached") < never).then(pl.col("reached") + day).otherwise(pl.col("reached"))
            ).alias("first_day"),
            pl.min_horizontal(
                "last_day", pl.when(pl.col("from") < never).then(pl.col("from") - day).otherwise(pl.lit(never))
            ).alias("last_day"),
        )
        .filter(pl.col("first_day") <= pl.col("last_day"), pl.col("first_day") < never)
    )
    return gaps.with_columns(pl.when(pl.col("last_day") < never).then(pl.col("last_day")).alias("last_day"))


def outbreak_risk_features(
    history: Frame,
    pathogens: pl.DataFrame,
    first: date,
    last: date,
    calendar: str,
    episode_days: int = EPISODE_DAYS,
    false_alarms: float = 0.01,
) -> pl.DataFrame:
    """One row per pathogen, facility and day of [first, last]; columns and order of the contract OutbreakRiskFeatures.

    history: lab_results_history (loinc_code, value_code, reason, patient_hash, facility_id, collected_at,
    resulted_at, row_key, row_version, event_date, known_from, known_to, change, is_conflict). pathogens: loinc_code,
    analyte, takes_part_in_outbreak_alarms. Facility ALL has a row on every day; another while a test of it
    is known from the last LOOKBACK_DAYS.

    seasonal_baseline, positives expected in 7 days: the mean over past years of a third of the 21 days around the
    same week, where at least one whole year is known; else an eighth of the 8 weeks that end 3 weeks before D, where
    they are; else null. seasonal_deviation = (positives − baseline) / sqrt(baseline + 1). temporal_cluster_score =
    −log10 P(X ≥ positives), X Poisson with mean (positives of the 28 days before + 0.5) / 4, at most 10; null with
    less than 35 days known. geographic_cluster_score: the site's share of the positives beyond its share of the
    tests, not below 0; for ALL the largest of its sites. outbreak_risk_score: sum over RISK_PARTS of weight × part /
    full value (0 to 1, an unknown part is 0), times min(1, positives / 5). risk_level: HIGH from 60, MEDIUM from 30.
    expected_cases, threshold_cases and detector: ``outbreak_detector`` on the 7-day counts that end on D, 7 days before
    D and so on, ``false_alarms`` the share of weeks without an outbreak that may lie above the threshold.
    """
    chosen = pathogens.filter(pl.col("takes_part_in_outbreak_alarms"))
    patients = counted_patients(history, chosen["loinc_code"].to_list(), calendar, episode_days)
    rows = pl.concat([patients, patients.with_columns(facility_id=pl.lit(ALL_SITES))])
    frames = [
        *_windows(rows, first, last),
        # the largest of the negated days is the earliest day known
        latest_known(rows, _KEY, -pl.col("event_date").to_physical().cast(pl.Int64), "_earliest", first, last),
    ]
    joined = reduce(lambda a, b: a.join(b, on=_DAY, how="left"), frames, _site_days(patients, chosen, first, last))
    # days since the earliest collection, both included
    known = pl.col("as_of_date").to_physical().cast(pl.Int64) + pl.col("_earliest") + 1
    joined = joined.with_columns(known.fill_null(0).alias("known")).sort(_DAY)
    return _features(_with_expectations(joined, rows, first, last, false_alarms))


def _with_expectations(
    joined: pl.DataFrame, rows: pl.DataFrame, first: date, last: date, false_alarms: float
) -> pl.DataFrame:
    """Add expected_cases, threshold_cases and detector; rows: counted patients of every facility and of ALL."""
    keys = joined.select(_KEY).unique().sort(_KEY).with_row_index("_key")
    # patients counted over the same days are one row: the weeks are summed a hundred times
    coded = rows.join(keys, on=_KEY).group_by(pl.col("_key").cast(pl.Int64), "event_date", "first_day", "last_day")
    spells = coded.agg(cases=pl.col("positive").sum().cast(pl.Int64), tests=pl.len().cast(pl.Int64))
    spot = joined.select(_DAY).join(keys, on=_KEY, how="left", maintain_order="left")
    key, day = spot["_key"].to_numpy(), (spot["as_of_date"] - first).dt.total_days().to_numpy()
    values = {"cases": pl.col("cases"), "tests": pl.col("tests")}
    counts = {name: np.zeros((outbreak_detector.WEEKS, joined.height), dtype=np.int64) for name in values}
    for week in range(outbreak_detector.WEEKS):
        present, sums = windowed_arrays(spells, ["_key"], values, 7, first, last, lag_days=7 * week)
        for name, array in sums.items():
            whole = np.zeros((keys.height, array.shape[1]), dtype=np.int64)
            whole[present["_key"].to_numpy()] = array
            counts[name][week] = whole[key, day]
    verdict = outbreak_detector.expectations(counts["cases"], counts["tests"], joined["known"].to_numpy(), false_alarms)
    return joined.with_columns(
        pl.Series("expected_cases", verdict.expected).fill_nan(None),
        pl.Series("threshold_cases", verdict.threshold).fill_nan(None),
        pl.Series("detector", verdict.detector, dtype=pl.String),
    )


def _windows(rows: pl.DataFrame, first: date, last: date) -> list[pl.DataFrame]:
    cases = {"n": pl.col("positive")}

    def sums(name: str, days: int, lag: int) -> pl.DataFrame:
        return windowed_sums(rows, _KEY, cases, days, first, last, lag_days=lag).rename({"n": name})

    return [
        windowed_sums(rows, _KEY, {"tests": pl.lit(1), "cases": pl.col("positive")}, 7, first, last),
        sums("cases_before", 7, 7),
        sums("cases_28d", COMPARISON_DAYS, 7),
        sums("cases_recent", 7 * RECENT_WEEKS, 7 * RECENT_WEEKS_LEFT_OUT),
        *[sums(f"cases_year_{k}", 21, k * YEAR_DAYS - 7) for k in range(1, BASELINE_YEARS + 1)],
    ]


def _site_days(patients: pl.DataFrame, pathogens: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    known = latest_known(patients, ["facility_id"], pl.col("event_date"), "_seen", first, last)
    sites = known.filter(pl.col("_seen").is_not_null()).drop("_seen")
    everywhere = days_between(first, last).to_frame().select(pl.lit(ALL_SITES).alias("facility_id"), "as_of_date")
    names = pathogens.select("loinc_code", pl.col("analyte").alias("pathogen"))
    return names.join(pl.concat([everywhere, sites]), how="cross")


def _features(rows: pl.DataFrame) -> pl.DataFrame:
    counts = [name for name in rows.columns if name.startswith("cases")] + ["tests"]
    rows = rows.with_columns(pl.col(counts).fill_null(0))
    years = [
        pl.when(pl.col("known") >= k * YEAR_DAYS + 14).then(pl.col(f"cases_year_{k}") * (1 / 3))
        for k in range(1, BASELINE_YEARS + 1)
    ]
    recent = pl.when(pl.col("known") >= 7 * (RECENT_WEEKS + RECENT_WEEKS_LEFT_OUT)).then(
        pl.col("cases_recent") / RECENT_WEEKS
    )
    rows = rows.with_columns(pl.coalesce(pl.mean_horizontal(*years), recent).alias("seasonal_baseline"))
    expected = (rows["cases_28d"].to_numpy() + PRIOR_CASES) * 7 / COMPARISON_DAYS
    tail = scipy.stats.poisson.logsf(rows["cases"].to_numpy() - 1, expected) / -math.log(10)
    temporal = pl.Series("temporal_cluster_score", tail).clip(0.0, SCORE_CAP)
    is_all = pl.col("facility_id") == ALL_SITES
    whole = [pl.col(c).filter(is_all).first().over("loinc_code", "as_of_date") for c in ("cases", "tests")]
    share = (pl.col("cases") / whole[0] - pl.col("tests") / whole[1]).clip(lower_bound=0.0)
    rows = rows.with_columns(temporal).with_columns(
        pl.when(pl.col("known") >= COMPARISON_DAYS + 7).then("temporal_cluster_score").alias("temporal_cluster_score"),
        ((pl.col("cases") - pl.col("seasonal_baseline")) / (pl.col("seasonal_baseline") + 1).sqrt()).alias(
            "seasonal_deviation"
        ),
        pl.when(~is_all & (whole[0] > 0)).then(share).alias("geographic_cluster_score"),
    )
    largest = pl.col("geographic_cluster_score").max().over("loinc_code", "as_of_date")
    rows = rows.with_columns(
        pl.when(is_all).then(largest).otherwise("geographic_cluster_score").alias("geographic_cluster_score")
    )
    parts = [w * (pl.col(c) * (1 / full)).clip(0.0, 1.0).fill_null(0.0) for c, (w, full) in RISK_PARTS.items()]
    score = pl.sum_horizontal(*parts) * (pl.col("cases") * (1 / FULL_WEIGHT_CASES)).clip(0.0, 1.0)
    out = rows.with_columns(
        positive_rate_7d=pl.when(pl.col("tests") > 0).then(pl.col("cases") / pl.col("tests")),
        total_tests_7d=pl.col("tests"),
        positive_tests_7d=pl.col("cases"),
        case_count_delta=pl.col("cases") - pl.col("cases_before"),
        outbreak_risk_score=score,
    ).with_columns(
        risk_level=pl.when(pl.col("outbreak_risk_score") >= HIGH_RISK)
        .then(pl.lit("HIGH"))
        .when(pl.col("outbreak_risk_score") >= MEDIUM_RISK)
        .then(pl.lit("MEDIUM"))
        .otherwise(pl.lit("LOW"))
    )
    dtypes = TABLES["outbreak_risk_features"].dtypes
    return out.select([pl.col(name).cast(dtype) for name, dtype in dtypes.items()]).sort("as_of_date", *_KEY)
