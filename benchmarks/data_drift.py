"""Data drift: false alarms on a stationary laboratory, and what is found of shifts, beside naive KS at p < 0.05.

    python benchmarks/data_drift.py [--seeds 601 602 603] [--days 250] [--shifted-days 4]

A simulated laboratory of 40 devices and 1,600 results a day, no drift episodes, no outbreaks, no dirt; its noise is that
of weekdays, visits, wear of devices and the patients who come. Arm "days move": every analyte of a whole day shifts by
0.05 to 0.10 of its SD too (size drawn per month), as reagents and rooms do. Baseline in the same run, on the same
windows (7 days against 56): the two-sample KS test at p < 0.05.

False alarms: share of analyte-days at MEDIUM or HIGH by any statistic, and of days on which three or more analytes
alarm, which is what the alert rule tells; device features (PSI) likewise. Power: on each of --shifted-days of each seed
each analyte in turn, all its results from that day on moved by so many of its SDs (robust); found within 7 days, first
day of it (median).
Seeds 1 and 2 were used in writing this; the limits are those of data/reference/drift_limits.csv.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
from device_failure_model import make_frames
from scipy import stats

from lims_platform.laboratory.drift import HISTORY_DAYS, drift_report
from lims_platform.laboratory.drift_limits import DriftLimits
from lims_platform.lakehouse.reference import load_reference
from lims_platform.simulator.config import Dirt, Drift, LabConfig, Outbreaks
from lims_platform.simulator.generate import simulate_days

REFERENCE = load_reference(Path(__file__).parents[1] / "data" / "reference")
LIMITS = DriftLimits.from_rows(REFERENCE.drift_limits)
SHIFTS = (0.2, 0.3, 0.5, 1.0)
CLEAN = dict.fromkeys(Dirt.__dataclass_fields__, 0.0)
NO_FEATURES = pl.DataFrame(schema={"as_of_date": pl.Date})


def laboratory(seed: int, days: int) -> LabConfig:
    """The stationary laboratory of a seed."""
    quiet = LabConfig(seed=seed, end=date(2025, 12, 31), days=days, outbreaks=Outbreaks(odds=1.0), dirt=Dirt(**CLEAN))
    return replace(quiet, drift=Drift(per_device_year=0.0))


def results(config: LabConfig) -> pl.DataFrame:
    """Numbers as silver has them, local codes in place of LOINC codes, with each analyte's robust SD."""
    rows = pl.concat([chunk.tables["lab_results"] for chunk in simulate_days(config)])
    numbers = rows.filter(pl.col("result_status") != "X").select(
        "device_id",
        loinc_code="test_code",
        value_number=pl.col("result_value").cast(pl.Float64, strict=False),
        event_date=pl.col("resulted_timestamp").dt.date(),
        value_kind=pl.lit("number"),
        comparator=pl.lit(None, pl.String),
    )
    value = pl.col("value_number")
    spread = (value.quantile(0.75) - value.quantile(0.25)).over("loinc_code") / 1.349
    return numbers.drop_nulls("value_number").with_columns(sd=spread)


def with_day_effects(rows: pl.DataFrame, seed: int) -> pl.DataFrame:
    """Each day of each analyte moved by 0.05 to 0.10 SD, times a normal deviate."""
    rng = np.random.default_rng([seed, 1])
    days = rows.select("event_date", "loinc_code").unique().sort("event_date", "loinc_code")
    month = days.select(pl.struct(pl.col("event_date").dt.truncate("1mo"), "loinc_code").rank("dense"))
    size = rng.uniform(0.05, 0.10, int(month.to_series().max() or 0) + 1)[month.to_series().to_numpy()]
    effects = days.with_columns(pl.Series("effect", size * rng.standard_normal(days.height)))
    moved = pl.col("value_number") + pl.col("effect") * pl.col("sd")
    joined = rows.join(effects, on=["event_date", "loinc_code"], maintain_order="left")
    return joined.with_columns(value_number=moved).drop("effect")


def verdicts(rows: pl.DataFrame, features: pl.DataFrame, days: list[date]) -> pl.DataFrame:
    """One row per day, kind and subject that could be judged: ours, and KS at p < 0.05."""
    report = drift_report(rows, features, REFERENCE.analytes, days, LIMITS)
    judged = report.filter(pl.col("kind") != "device", pl.col("outcome").str.starts_with("evaluated"))
    n, m = pl.col("reference_rows"), pl.col("current_rows")
    root = judged.select(pl.col("value") * (n * m / (n + m)).sqrt()).to_series().to_numpy()
    naive = (pl.col("statistic") == "ks") & (pl.col("naive_p") < 0.05)
    return (
        judged.with_columns(naive_p=stats.kstwobign.sf(root))
        .group_by("as_of_date", "kind", "subject")
        .agg(ours=pl.col("alert_level").is_in(["MEDIUM", "HIGH"]).any(), naive=naive.any())
    )


def stationary(seeds: list[int], days: int) -> None:
    """Print the false alarms."""
    found = []
    for seed in seeds:
        config = laboratory(seed, days)
        wanted = [config.start + timedelta(days=d) for d in range(HISTORY_DAYS, days)]
        features = make_frames(config).features
        rows = results(config)
        for arm, data in (("as simulated", rows), ("days move", with_day_effects(rows, seed))):
            found.append(verdicts(data, features, wanted).with_columns(arm=pl.lit(arm), seed=pl.lit(seed)))
    every = pl.concat(found)
    print("stationary    kind      tests   alarms: ours   KS p<.05 | days with 3 or more: ours   KS p<.05")
    for arm, kind in (("as simulated", "analyte"), ("days move", "analyte"), ("as simulated", "feature")):
        rows = every.filter(pl.col("arm") == arm, pl.col("kind") == kind)
        daily = rows.group_by("seed", "as_of_date").agg(pl.col("ours", "naive").sum() >= 3)
        shares = [*rows.select(pl.col("ours", "naive").mean()).row(0), *daily.select(pl.col("ours", "naive").mean()).row(0)]
        print(
            f"{arm:<14}{kind:<8}{rows.height:>7,}{shares[0]:>14.2%}{shares[1]:>11.1%} |{shares[2]:>26.2%}{shares[3]:>11.1%}"
        )


def power(seeds: list[int], days: int, shifted_days: int) -> None:
    """Print how often, and how soon, a shift is found where days move."""
    delays: dict[float, list[tuple[float, float]]] = {shift: [] for shift in SHIFTS}
    for seed in seeds:
        config = laboratory(seed, days)
        rows = with_day_effects(results(config), seed)
        for start in np.linspace(HISTORY_DAYS, days - 8, shifted_days).astype(int).tolist():
            zero = config.start + timedelta(days=start)
            week = [zero + timedelta(days=d) for d in range(7)]
            span = rows.filter(pl.col("event_date").is_between(zero - timedelta(days=63), week[-1]))
            for shift in SHIFTS:
                for analyte in sorted(span["loinc_code"].unique()):
                    moved = (pl.col("loinc_code") == analyte) & (pl.col("event_date") >= zero)
                    data = span.with_columns(
                        pl.col("value_number") + pl.when(moved).then(shift * pl.col("sd")).otherwise(0.0)
                    )
                    seen = verdicts(data, NO_FEATURES, week).filter(
                        pl.col("subject") == analyte, pl.col("kind") == "analyte"
                    )
                    if seen.height:
                        day = (pl.col("as_of_date") - zero).dt.total_days() + 1
                        first = [day.filter(name).min().fill_null(np.inf).cast(pl.Float64) for name in ("ours", "naive")]
                        delays[shift].append(seen.select(first[0].alias("a"), first[1].alias("b")).row(0))
    print("moved by   found within 7 days: ours, median day   KS p<.05, median day")
    for shift, pairs in delays.items():
        ours, naive = np.array(pairs).T
        print(
            f"{shift:.1f} SD{np.isfinite(ours).mean():>24.0%} of {len(pairs)}, {np.median(ours):.0f}"
            f"{np.isfinite(naive).mean():>18.0%}, {np.median(naive):.0f}"
        )


def main() -> None:
    """Both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[601, 602, 603])
    parser.add_argument("--days", type=int, default=250, help=f"of which the first {HISTORY_DAYS} are history only")
    parser.add_argument("--shifted-days", type=int, default=4)
    options = parser.parse_args()
    stationary(options.seeds, options.days)
    power(options.seeds, options.days, options.shifted_days)


if __name__ == "__main__":
    main()
