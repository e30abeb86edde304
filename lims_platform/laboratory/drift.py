"""Data drift: has the distribution of an analyte's results or of a feature moved?

Here: two-sample statistics with their effect sizes, p values that allow for day-to-day noise, false-discovery
control, and the drift report's rows. Not here: one device against itself and its sisters (``device_drift``).

Results of one day move together, features of one device are nearly the same from day to day: the independent values
behind a sample are fewer than its rows. Every p value uses an effective sample size n / design effect (Kish 1965; Rao
and Scott 1981), estimated from clusters of the sample itself.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import scipy  # scipy.stats loads at its first use: the code location, which imports this module, has to be there at once
from numpy.typing import NDArray

from lims_platform.contracts.tables import TABLES
from lims_platform.laboratory.asof import Frame
from lims_platform.laboratory.device_drift import DeviceDriftLimits, device_drift

#: Values a sample needs.
MIN_VALUES = 50
MIN_PSI_VALUES = 500
PSI_BINS = 10
#: Above this share of censored values the sample is compared re-censored at the highest limit, else without them.
CENSORED_SHARE = 0.05
#: At most this share of a sample may lie at the limit it was re-censored at.
MAX_AT_LIMIT = 0.8
FALSE_DISCOVERY_RATE = 0.05
#: Effect from which an alarm is MEDIUM and HIGH.
EFFECT_FLOORS: dict[str, tuple[float, float]] = {"ks": (0.1, 0.2), "wasserstein": (0.2, 0.5), "psi": (0.1, 0.2)}
REFERENCE_DAYS = 56
CURRENT_DAYS = 7
FEATURE_CURRENT_DAYS = 14
#: Features that move by themselves as time passes, and identifiers.
UNTESTED_FEATURES = ("device_age_months", "last_failure_days", "as_of_date", "device_id", "device_type", "facility_id")

Floats = NDArray[np.float64]


def ks_two_sample(reference: Floats, current: Floats) -> float:
    """Kolmogorov-Smirnov distance, the largest difference of the two empirical distribution functions; ties allowed."""
    a, b = np.sort(reference), np.sort(current)
    both = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max())


def ks_p_value(distance: float, reference_size: float, current_size: float) -> float:
    """Asymptotic p of ``distance``, sizes being effective (Stephens 1970's correction for small samples)."""
    root = np.sqrt(reference_size * current_size / (reference_size + current_size))
    return float(scipy.stats.kstwobign.sf(distance * (root + 0.12 + 0.11 / root)))


def robust_sd(values: Floats) -> float:
    """IQR / 1.349, the SD where that is 0 (more than half of the values equal); 0 if all are equal."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float((high - low) / 1.3489795003921634) or float(np.std(values))


def normed_wasserstein(reference: Floats, current: Floats) -> float:
    """First Wasserstein distance in units of the reference's robust SD; NaN where that is 0."""
    scale = robust_sd(reference)
    return float(scipy.stats.wasserstein_distance(reference, current)) / scale if scale > 0 else float("nan")


def psi(reference: Floats, current: Floats, bins: int = PSI_BINS) -> tuple[float, int]:
    """Population stability index over bins of equal share of the reference, and the number of bins that are left.

    Ties make bins coincide; they are merged. Half a value is added to every bin, so that an empty one stays finite.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1]))
    count = len(edges) + 1
    r = np.bincount(np.searchsorted(edges, reference, "left"), minlength=count) + 0.5
    c = np.bincount(np.searchsorted(edges, current, "left"), minlength=count) + 0.5
    p, q = r / r.sum(), c / c.sum()
    return float(np.sum((p - q) * np.log(p / q))), count


def psi_p_value(value: float, bins: int, reference_size: float, current_size: float) -> float:
    """P(PSI ≥ value | no change) for samples of these effective sizes.

    Without change PSI / (1/n + 1/m) is chi-square with bins − 1 degrees of freedom (Yurdakul 2018): the size-matched
    null.
    """
    return float(scipy.stats.chi2.sf(value / (1 / reference_size + 1 / current_size), max(bins - 1, 1)))


def benjamini_hochberg(p_values: Floats) -> Floats:
    """q values (Benjamini and Hochberg 1995); NaN stays NaN and does not count as a test."""
    q = np.full(len(p_values), np.nan)
    tested = np.flatnonzero(np.isfinite(p_values))
    p = p_values[tested]
    order = np.argsort(p)[::-1]
    scaled = p[order] * len(p) / np.arange(len(p), 0, -1)
    q[tested[order]] = np.minimum(np.minimum.accumulate(scaled), 1.0)
    return q


def effective_size(values: Floats, clusters: NDArray[np.int64]) -> float:
    """Number of independent values worth as much as ``values``, which move together within ``clusters``.

    n / (1 + (m − 1) ρ), ρ the intraclass correlation of the values' ranks by analysis of variance, m the mean size of
    the cluster a value is in. Between 1 and n.
    """
    n = len(values)
    _, code = np.unique(clusters, return_inverse=True)
    size = np.bincount(code).astype(float)
    groups = len(size)
    if groups < 2 or groups == n:
        return float(n) if groups == n else 1.0
    ranks = scipy.stats.rankdata(values)
    means = np.bincount(code, ranks) / size
    between = float(np.sum(size * (means - ranks.mean()) ** 2)) / (groups - 1)
    within = float(np.sum((ranks - means[code]) ** 2)) / (n - groups)
    usual = (n - np.sum(size**2) / n) / (groups - 1)
    total = between + (usual - 1) * within
    rho = max(0.0, (between - within) / total) if total > 0 else 0.0
    return float(np.clip(n / (1 + (np.sum(size**2) / n - 1) * rho), 1.0, n))


def drift_report(
    results: Frame,
    features: Frame,
    analytes: pl.DataFrame,
    as_of: date,
    reference_days: int = REFERENCE_DAYS,
    current_days: int = CURRENT_DAYS,
    feature_current_days: int = FEATURE_CURRENT_DAYS,
    limits: DeviceDriftLimits | None = None,
) -> pl.DataFrame:
    """The contract DriftReport for one day: analytes (ks, wasserstein), features (psi), devices (z, z_sisters).

    results: lab_results_standardized (event_date, loinc_code, device_id, value_kind, value_number, comparator).
    features: device_failure_features (as_of_date, device_id and any numeric columns; UNTESTED_FEATURES are left out).
    analytes: loinc_code, analyte, tea_percent, tea_absolute. The current period is the last days up to ``as_of``, the
    reference the ``reference_days`` before it.

    An alarm needs q < 0.05 over all tests of analytes and features and an effect above its floor (EFFECT_FLOORS:
    MEDIUM, HIGH); the Wasserstein distance has no p of its own and takes that of its analyte's KS test. ``outcome``
    starts with 'evaluated', followed by what was left out; else it says why there is no statistic.
    """
    first = as_of - timedelta(days=reference_days + current_days - 1)
    recent = results.lazy().filter(pl.col("event_date").is_between(first, as_of)).collect()
    devices = device_drift(recent, analytes, as_of, limits or DeviceDriftLimits())
    rows = pl.concat(
        [
            _analyte_rows(recent, analytes, as_of, current_days),
            _feature_rows(features.lazy().collect(), as_of, reference_days, feature_current_days),
            devices.select(list(_ROW)),
        ]
    )
    dtypes = TABLES["drift_report"].dtypes
    out = _judged(rows).with_columns(pl.lit(as_of).alias("as_of_date"))
    return out.select([pl.col(n).cast(t) for n, t in dtypes.items()]).sort("kind", "subject", "loinc_code", "statistic")


_ROW = {name: dtype for name, dtype in TABLES["drift_report"].dtypes.items() if name not in ("as_of_date", "q_value")}


def _rows(rows: list[dict[str, object]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=_ROW)


def _judged(rows: pl.DataFrame) -> pl.DataFrame:
    """Add q values; give analytes and features their level (devices have theirs)."""
    # a device's contrast with its sisters is no test of its own
    tests = rows.select(pl.when(pl.col("statistic") != "z_sisters").then(pl.col("p_value").fill_null(float("nan"))))
    rows = rows.with_columns(
        pl.Series("q_value", benjamini_hochberg(tests.to_series().fill_null(float("nan")).to_numpy())).fill_nan(None)
    )
    ks = rows.filter(statistic="ks").select("subject", pl.col("p_value").alias("_p"), pl.col("q_value").alias("_q"))
    shares = pl.col("statistic") == "wasserstein"
    rows = rows.join(ks, on="subject", how="left", maintain_order="left").with_columns(
        pl.when(shares).then("_p").otherwise("p_value").alias("p_value"),
        pl.when(shares).then("_q").otherwise("q_value").alias("q_value"),
    )
    floors = [
        pl.col("effect") >= pl.col("statistic").replace_strict(floor, default=None, return_dtype=pl.Float64)
        for floor in ({n: f[i] for n, f in EFFECT_FLOORS.items()} for i in (0, 1))
    ]
    sure = pl.col("q_value") < FALSE_DISCOVERY_RATE
    level = (
        pl.when(pl.col("kind") == "device")
        .then("alert_level")
        .when(sure & floors[1])
        .then(pl.lit("HIGH"))
        .when(sure & floors[0])
        .then(pl.lit("MEDIUM"))
        .otherwise(pl.lit("LOW"))
    )
    return rows.with_columns(level.alias("alert_level")).drop("_p", "_q")


def _analyte_rows(results: pl.DataFrame, analytes: pl.DataFrame, as_of: date, current_days: int) -> pl.DataFrame:
    """KS and Wasserstein of every quantitative analyte; one loop turn per analyte, arrays inside."""
    usable = results.filter(pl.col("value_kind").is_in(["number", "censored"]), pl.col("value_number").is_finite())
    names = dict(analytes.select("loinc_code", "analyte").unique("loinc_code").iter_rows())
    day = (pl.col("event_date") - as_of).dt.total_days().alias("day")
    rows: list[dict[str, object]] = []
    for (loinc,), part in usable.with_columns(day).partition_by("loinc_code", as_dict=True).items():
        part, note = compare_censored(part)
        now = part["day"].to_numpy() > -current_days
        value, days = part["value_number"].to_numpy(), part["day"].to_numpy()
        reference, current = value[~now], value[now]
        base: dict[str, object] = {
            "kind": "analyte",
            "subject": loinc,
            "loinc_code": loinc,
            "name": names.get(str(loinc)),
            "reference_rows": len(reference),
            "current_rows": len(current),
            "reference_mean": float(reference.mean()) if len(reference) else None,
            "current_mean": float(current.mean()) if len(current) else None,
        }
        why_not = _why_not(note, reference, current, MIN_VALUES)
        for statistic in ("ks", "wasserstein"):
            row = {**base, "statistic": statistic, "outcome": why_not or f"evaluated{note}"}
            if not why_not and statistic == "ks":
                distance = ks_two_sample(reference, current)
                sizes = [effective_size(v, d) for v, d in ((reference, days[~now]), (current, days[now]))]
                # the current period's few days estimate their own noise badly: never better than the reference's
                share = min(sizes[0] / len(reference), sizes[1] / len(current))
                row |= {"value": distance, "effect": distance}
                row |= {"p_value": ks_p_value(distance, share * len(reference), share * len(current))}
            elif not why_not:
                distance = normed_wasserstein(reference, current)
                row |= {"value": distance, "effect": distance}
            rows.append(row)
    return _rows(rows)


def compare_censored(part: pl.DataFrame) -> tuple[pl.DataFrame, str]:
    """Rows whose ``value_number`` may be compared, and what was done, for the outcome (Helsel 2012, chapter 9).

    Few censored values (CENSORED_SHARE) are left out. Else every value is re-censored at the highest lower limit and
    the lowest upper limit met, censored values counting as that limit: ties, which the statistics allow. A note that
    starts with 'not evaluable' says that too much would lie at the limits.
    """
    below, above = pl.col("comparator").is_in(["<", "<="]), pl.col("comparator").is_in([">", ">="])
    censored = part.filter(pl.col("value_kind") == "censored")
    if censored.is_empty():
        return part, ""
    if censored.height <= CENSORED_SHARE * part.height:
        return part.filter(pl.col("value_kind") == "number"), f"; {censored.height} censored values left out"
    # without a censored value on a side there is no limit there
    low = float(part.filter(below).get_column("value_number").append(pl.Series([-np.inf])).max())  # type: ignore[arg-type]
    high = float(part.filter(above).get_column("value_number").append(pl.Series([np.inf])).min())  # type: ignore[arg-type]
    clipped = part.with_columns(pl.col("value_number").clip(low, high))
    at_limit = clipped.filter(pl.col("value_number").is_in([low, high])).height
    if at_limit > MAX_AT_LIMIT * part.height:
        return clipped, f"not evaluable: {at_limit} of {part.height} values are censored or at a censoring limit"
    limits = ", ".join(f"{sign} {v:g}" for sign, v in (("<", low), (">", high)) if np.isfinite(v))
    return clipped, f"; re-censored at {limits}"


def _why_not(note: str, reference: Floats, current: Floats, least: int) -> str | None:
    if note.startswith("not evaluable"):
        return note
    if min(len(reference), len(current)) < least:
        return f"not evaluable: {len(reference)} reference and {len(current)} current values, {least} needed"
    if robust_sd(reference) == 0:
        return "not evaluable: all reference values are equal"
    return None


def _feature_rows(features: pl.DataFrame, as_of: date, reference_days: int, current_days: int) -> pl.DataFrame:
    """PSI of every numeric feature; a cluster is a device over ``current_days`` days."""
    first = as_of - timedelta(days=reference_days + current_days - 1)
    recent = features.filter(pl.col("as_of_date").is_between(first, as_of))
    numeric = [n for n, t in recent.schema.items() if (t.is_numeric() or t == pl.Boolean) and n not in UNTESTED_FEATURES]
    age = (pl.lit(as_of) - pl.col("as_of_date")).dt.total_days()
    recent = recent.with_columns(age.alias("_age"), (age // current_days).alias("_block")).with_columns(
        pl.struct("device_id", "_block").rank("dense").cast(pl.Int64).alias("_cluster")
    )
    rows: list[dict[str, object]] = []
    for name in numeric:
        part = recent.select(pl.col(name).cast(pl.Float64).alias("v"), "_age", "_cluster").filter(pl.col("v").is_finite())
        now = part["_age"].to_numpy() < current_days
        value, cluster = part["v"].to_numpy(), part["_cluster"].to_numpy()
        reference, current = value[~now], value[now]
        row: dict[str, object] = {
            "kind": "feature",
            "subject": name,
            "name": name,
            "statistic": "psi",
            "reference_rows": len(reference),
            "current_rows": len(current),
            "reference_mean": float(reference.mean()) if len(reference) else None,
            "current_mean": float(current.mean()) if len(current) else None,
        }
        why_not = _why_not("", reference, current, MIN_PSI_VALUES)
        row["outcome"] = why_not or "evaluated"
        if not why_not:
            index, bins = psi(reference, current)
            sizes = [effective_size(v, c) for v, c in ((reference, cluster[~now]), (current, cluster[now]))]
            row |= {"value": index, "effect": index, "p_value": psi_p_value(index, bins, sizes[0], sizes[1])}
        rows.append(row)
    return _rows(rows)
