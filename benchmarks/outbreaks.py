"""Outbreak detection: false alarms, delay and agreement, beside EARS C1 and a Monday review of mean + 2 SD.

    python benchmarks/outbreaks.py [--seeds 501 502 503] [--surveillance FOLDER] [--nrevss FILE]

Baselines, on the same 7-day counts in the same run: EARS C1 (the 7 weeks before: mean + 3.09 SD), the same with its
limit raised until its false alarms are as few as the detector's, and a person who looks at every Monday's count (mean
of 8 weeks + 2 SD).

Simulated laboratories: 8 sites, 6,000 results a day, 1,200 days, twice per seed: as drawn, and the same without its
outbreaks. False alarms are those of the second: share of days in alarm of a site (or all sites) and pathogen. An
outbreak counts if it brought at least 10 more positive patients than the laboratory without it; it is found if an alarm
of its site begins from its first day to its last; the delay is in days from its first (median over all; never: inf).
Weekly counts (Noufaily et al., Stat Med 2013;32:1206): 28 scenarios, weeks 576-624 judged by the two years before them;
an outbreak of k SD. Real counts: --surveillance compares with the alarms and bounds of R surveillance 1.20.3, --nrevss
(weekly influenza of US states) says how often and how long before the season's peak there is an alarm.
Development used seeds 1 and 2.
"""

from __future__ import annotations

import argparse
import dataclasses
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl

from lims_platform.laboratory import outbreak_detector
from lims_platform.laboratory.asof import validity
from lims_platform.laboratory.outbreaks import ALL_SITES, outbreak_risk_features
from lims_platform.simulator.config import Dirt, LabConfig
from lims_platform.simulator.generate import simulate_days

DAYS, LAST, ALPHA = 1200, date(2025, 12, 31), 0.01
PATHOGENS = {"SARS2": "94500-6", "FLUA": "85477-8", "FLUB": "85478-6", "RSV": "85479-4"}
KEY = ["loinc_code", "facility_id"]
CLEAN = Dirt(**{field.name: 0.0 for field in dataclasses.fields(Dirt)})
METHODS = ("detector", "EARS C1", "C1, as few false alarms", "Monday mean + 2 SD")


def laboratory(seed: int, with_outbreaks: bool) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Pathogen results as a history of first versions, and the outbreaks planted."""
    config = LabConfig(
        seed=seed, end=LAST, days=DAYS, devices=60, facilities=8, results_per_day=6000, samples_per_day=1, dirt=CLEAN
    )
    if not with_outbreaks:
        config = dataclasses.replace(config, outbreaks=dataclasses.replace(config.outbreaks, odds=1.0))
    rows, truth = [], pl.DataFrame()
    for chunk in simulate_days(config):
        rows.append(chunk.tables["lab_results"].filter(pl.col("test_code").is_in(list(PATHOGENS))))
        truth = chunk.truth.get("outbreaks", truth)
    utc = [
        pl.col(name)
        .dt.replace_time_zone(config.timezone, ambiguous="earliest", non_existent="null")
        .dt.convert_time_zone("UTC")
        for name in ("collected_timestamp", "resulted_timestamp")
    ]
    history = (
        pl.concat(rows)
        .filter(pl.col("result_status") != "X")
        .select(
            pl.col("test_code").replace_strict(PATHOGENS).alias("loinc_code"),
            "facility_id",
            patient_hash="patient_id",
            row_key="result_id",
            value_code="result_value",
            collected_at=utc[0],
            resulted_at=utc[1],
            known_from=utc[1],
            event_date=pl.col("resulted_timestamp").dt.date(),
            row_version=pl.lit(1, pl.Int32),
            change=pl.lit("insert"),
            is_conflict=pl.lit(False),
            reason=pl.lit(None, pl.String),
        )
    )
    named = truth.with_columns(pl.col("pathogen").replace_strict(PATHOGENS).alias("loinc_code"))
    return validity(history.lazy()).collect(), named


def judged(history: pl.DataFrame) -> pl.DataFrame:
    """Feature rows with an alarm column per method; C1's margin in SD for its other limit."""
    pathogens = pl.DataFrame({"loinc_code": list(PATHOGENS.values()), "analyte": list(PATHOGENS)}).with_columns(
        takes_part_in_outbreak_alarms=pl.lit(True)
    )
    first = LAST - timedelta(days=DAYS - 1)
    rows = outbreak_risk_features(history, pathogens, first, LAST, "Europe/Berlin", false_alarms=ALPHA)
    cases = pl.col("positive_tests_7d")
    rows = rows.sort(*KEY, "as_of_date").with_columns(
        week=pl.concat_list([cases.shift(7 * k).over(KEY) for k in range(1, 9)]).cast(pl.List(pl.Float64))
    )
    seven = pl.col("week").list.head(7)
    month = pl.sum_horizontal(cases, *[pl.col("week").list.get(k) for k in range(3)])
    enough = month >= outbreak_detector.LEAST_CASES  # the same guard for all
    review = cases > pl.col("week").list.mean() + 2 * pl.col("week").list.std()
    monday = pl.col("as_of_date").dt.weekday() == 1
    return rows.with_columns(
        pl.when(enough).then((cases - seven.list.mean()) / seven.list.std()).fill_nan(None).alias("margin")
    ).with_columns(
        (cases > pl.col("threshold_cases")).alias("detector"),
        (pl.col("margin") > 3.0902).alias("EARS C1"),
        (review & enough & monday).alias("Monday mean + 2 SD"),
        regime=pl.col("detector"),
    )


def as_few(quiet: pl.DataFrame, loud: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """C1 with the limit, per regime, at which its false alarms are as few as the detector's."""
    share = quiet["detector"].fill_null(False).mean()
    margin = quiet["margin"].fill_null(-np.inf).fill_nan(-np.inf).to_numpy()
    limit = float(np.quantile(margin, 1 - float(share or 0.0), method="higher"))
    alarm = (pl.col("margin") > limit).alias(METHODS[2])
    return quiet.with_columns(alarm), loud.with_columns(alarm), f"{limit:.1f} SD"


def delays(loud: pl.DataFrame, outbreaks: pl.DataFrame, method: str) -> np.ndarray:
    """Days from each outbreak's first day to the beginning of an alarm of its site; inf where there is none."""
    alarm = pl.col(method).fill_null(False)
    begins = alarm & ~alarm.shift(1).over(KEY).fill_null(False)
    starts = loud.filter(begins).select("lab", *KEY, "as_of_date")
    hits = outbreaks.join(starts, on=["lab", *KEY], how="left").filter(
        pl.col("as_of_date").is_between(pl.col("first_date"), pl.col("last_date"))
    )
    found = hits.group_by("number").agg((pl.col("as_of_date") - pl.col("first_date")).min().dt.total_days().alias("delay"))
    return outbreaks.join(found, on="number", how="left")["delay"].cast(pl.Float64).fill_null(np.inf).to_numpy()


def simulated(seeds: list[int]) -> None:
    """False alarms and delays by what the detector knew, all seeds together."""
    quiet, loud, planted = [], [], []
    for seed in seeds:
        calm, _ = laboratory(seed, with_outbreaks=False)
        real, truth = laboratory(seed, with_outbreaks=True)
        lab = pl.lit(seed).alias("lab")
        quiet.append(judged(calm).with_columns(lab))
        loud.append(judged(real).with_columns(lab))
        day = pl.col("collected_at").dt.date()
        counts = []
        for history in (calm, real):
            found = truth.with_row_index("number").join(history.filter(value_code="POSITIVE"), on=KEY)
            inside = found.filter(day.is_between(pl.col("first_date"), pl.col("last_date")))
            counts.append(inside.group_by("number").agg(pl.col("patient_hash").n_unique().cast(pl.Int64).alias("patients")))
        both = (
            truth.with_row_index("number").join(counts[1], on="number").join(counts[0], on="number", how="left", suffix="_0")
        )
        extra = pl.col("patients") - pl.col("patients_0").fill_null(0)
        planted.append(both.filter(extra >= 10).with_columns(lab))
    all_quiet, all_loud = pl.concat(quiet), pl.concat(loud)
    known = all_loud.select("lab", *KEY, pl.col("as_of_date").alias("first_date"), "regime")
    outbreaks = pl.concat(planted).join(known, on=["lab", *KEY, "first_date"]).drop("number").with_row_index("number")
    print("what is known        method                 false alarms: days, all sites | found         delay (median)")
    for regime in reversed(list(outbreak_detector.DESIGNS)):
        calm, here = all_quiet.filter(pl.col("regime") == regime), outbreaks.filter(pl.col("regime") == regime)
        calm, real, limit = as_few(calm, all_loud)
        for method in METHODS:
            alarm = pl.col(method).fill_null(False)
            share = calm.select(alarm.mean()).item()
            whole = calm.filter(pl.col("facility_id") == ALL_SITES).select(alarm.mean()).item()
            delay = delays(real, here, method)
            label = f"{method} ({limit})" if method == METHODS[2] else method
            print(
                f"{regime[:20]:<20} {label:<34}{share:>7.2%}{whole:>9.2%} | {np.isfinite(delay).mean():>6.0%} of"
                f" {len(delay):>3}{np.median(delay):>6.0f} d"
            )


def weekly_counts(rng: np.random.Generator, repeats: int) -> None:
    """Noufaily's scenarios: share of weeks in alarm without an outbreak, share of outbreaks of k SD found."""
    sets = [
        (0.1, 1.5, 0.0025, 0.6, 0.6), (-2, 2, 0.005, 0.1, 0.3), (1.5, 1, 0.003, 0.2, -0.4), (0.5, 5, 0.002, 0.5, 0.5),
        (2.5, 3, 0.001, 1, 0.1), (3.75, 1.1, 0.001, 0.1, -0.1), (5, 1.2, 0.0001, 0.05, 0.01),
    ]  # fmt: skip
    scenarios = [(s, trend, m) for s in sets for trend, m in ((0, 0), (0, 1), (1, 1), (1, 2))]
    t = np.arange(1, 625)
    false = {"detector": [], "EARS C1": []}
    found: dict[tuple[int, str], list[float]] = {}
    for (theta, phi, beta, g1, g2), trend, m in scenarios:
        wave = sum(g1 * np.cos(2 * np.pi * j * t / 52) + g2 * np.sin(2 * np.pi * j * t / 52) for j in range(1, m + 1))
        mean = np.broadcast_to(np.exp(theta + trend * beta * t + wave), (repeats, 624))
        base = rng.poisson(mean) if phi == 1 else rng.negative_binomial(mean / (phi - 1), 1 / phi)
        for name, alarm in weekly_alarms(base).items():
            false[name].append(alarm.mean())
        for k in (2, 5, 10):
            start = 575 + rng.integers(0, 44, repeats)
            size = rng.poisson(k * np.sqrt(phi * mean[np.arange(repeats), start]))
            counts = base.copy()
            for row in range(repeats):
                week = start[row] + np.floor(rng.lognormal(0, 0.5, size[row])).astype(int)
                np.add.at(counts[row], np.minimum(week, 623), 1)
            for name, alarm in weekly_alarms(counts).items():
                week = np.arange(575, 624)
                hit = (alarm & (week >= start[:, None]) & (week < start[:, None] + 5)).any(axis=1)
                found.setdefault((k, name), []).append(float(hit[size > 0].mean()))
    for name, shares in false.items():
        text = ", ".join(f"{k} SD {np.mean(found[k, name]):.0%}" for k in (2, 5, 10))
        print(f"  {name:<10} false alarms {np.mean(shares):.2%} of weeks (worst scenario {max(shares):.2%}); found: {text}")


def weekly_alarms(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Alarms in weeks 576 to 624 of each row."""
    weeks = np.arange(575, 624)
    cases = np.stack([counts[:, weeks - k].ravel() for k in range(outbreak_detector.WEEKS)])
    verdict = outbreak_detector.expectations(cases, np.ones_like(cases), np.full(cases.shape[1], 9999), ALPHA)
    before = cases[1:8]
    c1 = (cases[0] > before.mean(axis=0) + 3.0902 * before.std(axis=0, ddof=1)) & (cases[:4].sum(axis=0) >= 5)
    shape = (len(counts), len(weeks))
    return {"detector": (cases[0] > verdict.threshold).reshape(shape), "EARS C1": c1.reshape(shape)}


def golden(folder: Path) -> None:
    """Alarms and bounds against R's farringtonFlexible, alarms of C1 against its earsC."""
    series = (
        pl.read_csv(folder / "series_long.csv.gz", infer_schema_length=None)
        .group_by("series", "t")
        .agg(pl.col("observed").sum())
    )
    wanted = pl.read_csv(folder / "golden_alarms.csv.gz", infer_schema_length=None)
    weeks = alarms = bounds = 0
    for (name,), rows in wanted.filter(method="farringtonFlexible").group_by("series", maintain_order=True):
        counts = series.filter(series=name).sort("t")["observed"].to_numpy()
        at = rows["t"].to_numpy() - 1
        cases = np.stack([counts[at - k] for k in range(outbreak_detector.WEEKS)])
        verdict = outbreak_detector.expectations(cases, np.ones_like(cases), np.full(len(at), 9999), ALPHA)
        enough = cases[:4].sum(axis=0) >= 5
        bound = rows["upperbound"].cast(pl.Float64).fill_null(-1).to_numpy()
        least = outbreak_detector.LEAST_CASES - 1 - cases[1:4].sum(axis=0)
        weeks += len(at)
        alarms += int(((cases[0] > verdict.threshold) == rows["alarm"].cast(pl.Boolean).to_numpy()).sum())
        bounds += int((np.where(enough, verdict.threshold, -1) == np.where(enough, np.maximum(bound, least), -1)).sum())
    print(f"R surveillance, farringtonFlexible, 16 series: alarms agree in {alarms} of {weeks} weeks, bounds in {bounds}")


def influenza(path: Path) -> None:
    """Influenza of US states: share of weeks in alarm, in and out of season, and weeks from first alarm to peak."""
    raw = pl.read_csv(path, null_values="X", infer_schema_length=None)
    rows = raw.select(
        "REGION", "YEAR", "WEEK", cases=pl.col("TOTAL A") + pl.col("TOTAL B"), tests=pl.col("TOTAL SPECIMENS")
    ).sort("REGION", "YEAR", "WEEK")
    shares: dict[str, list[np.ndarray]] = {"detector": [], "without tests": [], "EARS C1": []}
    season, lead = [], {name: [] for name in shares}
    for _, state in rows.group_by("REGION", maintain_order=True):
        if state["cases"].null_count() or state.height <= outbreak_detector.WEEKS:
            continue  # weeks would no longer be a week apart
        at = np.arange(outbreak_detector.WEEKS - 1, state.height)
        lags = [at - k for k in range(outbreak_detector.WEEKS)]
        cases, tests = (np.stack([state[name].to_numpy()[lag] for lag in lags]) for name in ("cases", "tests"))
        far = np.full(len(at), 9999)
        before = cases[1:8]
        found = {
            "detector": cases[0] > outbreak_detector.expectations(cases, tests, far, ALPHA).threshold,
            "without tests": cases[0] > outbreak_detector.expectations(cases, np.ones_like(tests), far, ALPHA).threshold,
            "EARS C1": (cases[0] > before.mean(axis=0) + 3.0902 * before.std(axis=0, ddof=1)) & (cases[:4].sum(axis=0) >= 5),
        }
        week = state["WEEK"].to_numpy()[at]
        season.append((week >= 40) | (week <= 20))
        for start in np.flatnonzero(week == 40):
            stop = min(start + 33, len(week))
            if stop - start == 33:
                peak = start + int(np.argmax(cases[0][start:stop]))
                for name, alarm in found.items():
                    first = np.flatnonzero(alarm[start : peak + 1])
                    lead[name].append(peak - start - first[0] if len(first) else np.nan)
        for name, alarm in found.items():
            shares[name].append(alarm)
    inside = np.concatenate(season)
    for name, parts in shares.items():
        alarm = np.concatenate(parts)
        early = np.isfinite(lead[name])
        print(
            f"  {name:<14} weeks in alarm: {alarm[inside].mean():.1%} in season, {alarm[~inside].mean():.1%} out of it;"
            f" alarm by the peak in {early.mean():.0%} of {len(early)} seasons, {np.nanmedian(lead[name]):.0f} weeks ahead"
        )


def main() -> None:
    """Every arm whose data are there."""
    shared = Path(__file__).parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[501, 502, 503])
    parser.add_argument("--repeats", type=int, default=200, help="weekly series per scenario")
    parser.add_argument("--surveillance", type=Path, default=shared / "surveillance")
    parser.add_argument("--nrevss", type=Path, default=shared / "nrevss" / "states_clinical_labs_2015_2019.csv.gz")
    options = parser.parse_args()
    if options.surveillance.exists():
        golden(options.surveillance)
    else:
        print(f"not compared with R: no {options.surveillance}")
    print("weekly counts of 28 scenarios:")
    weekly_counts(np.random.default_rng(options.seeds[0]), options.repeats)
    if options.nrevss.exists():
        print("weekly influenza of US states:")
        influenza(options.nrevss)
    else:
        print(f"no influenza of US states: no {options.nrevss}")
    simulated(options.seeds)


if __name__ == "__main__":
    main()
