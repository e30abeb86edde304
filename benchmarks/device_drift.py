"""Device drift: delay, detection and false alarms, beside a Kolmogorov-Smirnov test per device and day at p < 0.05.

Run: python benchmarks/device_drift.py [--seed 1] [--months 200] [--episodes 200] [--log-effects] [--only sodium].

20 devices; results per device-day: Na, K, creatinine 150, ALT 250, glucose 600, haemoglobin 150, of the populations in
PATIENTS. Whole days move by 0.05-0.10 SD shared (drawn per month) and 0.03 SD of each device's own; SD is the
patients' moment SD, the tails included, or with --log-effects that of the logarithm times the median. Controls: two
levels every shift of eight hours, SD 0.22 of the allowable error (TEa); they show the device's own effect, not the
patients'.

Stationary: weeks of a device and analyte with a day at HIGH or CRITICAL. Episodes: half of the greater of relative and
absolute TEa at the median, added to every result of one device from day 0 on, either sign, first hidden from the
controls, then shown by them. A delay of 1 is an alarm on day 0 itself.

Oracle: what no method can be expected to beat. It knows every device's baseline, all variances and the size of the bias,
is told of nothing but this one kind of change, and has for each question its own best statistic (sums of the last 1 to 7
days, or CUSUMs) with its limit at 1 % of stationary weeks. A device's own effect of a day is added to all its results
alike, as the bias is: no scale and no weighing of the day's results tells the two apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from lims_platform.laboratory.daily_location import daily_locations, ratio_scale
from lims_platform.laboratory.device_drift import device_drift, device_verdicts
from lims_platform.laboratory.device_panel import daily_controls
from lims_platform.laboratory.drift_limits import DriftLimits
from lims_platform.lakehouse.reference import load_reference

REFERENCE = load_reference(Path(__file__).parents[1] / "data" / "reference")
LIMITS = DriftLimits.from_rows(REFERENCE.drift_limits)
DEVICES, CONTROLS, AFTER = 20, 6, 10
CONTROL_SD = 0.22  # in allowable errors
START = date(2000, 1, 3)
Rng = np.random.Generator


class Analyte(NamedTuple):
    """results: of a device and day; patients: draws values; targets: of the issue."""

    loinc: str
    results: int
    decimals: int
    patients: Callable[[Rng, tuple[int, int]], np.ndarray]


def _mixed(rng: Rng, size: tuple[int, int], share: float, a: tuple[float, float], b: tuple[float, float]) -> np.ndarray:
    return np.where(
        rng.random(size) < share, rng.lognormal(np.log(a[0]), a[1], size), rng.lognormal(np.log(b[0]), b[1], size)
    )


PATIENTS = {
    "sodium": Analyte("2951-2", 150, 0, lambda r, n: r.normal(139.5, 3.2, n) + (r.random(n) < 0.08) * r.normal(-4, 5, n)),
    "potassium": Analyte("2823-3", 150, 1, lambda r, n: r.normal(4.2, 0.45, n)),
    "creatinine": Analyte("2160-0", 150, 2, lambda r, n: _mixed(r, n, 0.10, (1.8, 0.6), (0.86, 0.28))),
    "ALT": Analyte("1742-6", 250, 0, lambda r, n: r.lognormal(np.log(24), 0.65, n)),
    "glucose": Analyte("2345-7", 600, 0, lambda r, n: _mixed(r, n, 0.25, (170, 0.40), (100, 0.16))),
    "haemoglobin": Analyte("718-7", 150, 1, lambda r, n: r.normal(13.2, 1.9, n)),
}


class Lab:
    """One analyte on 20 devices; any day can be drawn again, with or without a bias."""

    def __init__(self, analyte: Analyte, seed: int, log_effects: bool = False) -> None:
        self.analyte, self.seed = analyte, seed
        population = analyte.patients(np.random.default_rng(0), (1000, 1000))
        self.median = float(np.median(population))
        sd_of_log = float(np.log(np.maximum(population, 0.01)).std())
        self.sd = self.median * sd_of_log if log_effects else float(population.std())
        row = REFERENCE.analytes.row(by_predicate=pl.col("loinc_code") == analyte.loinc, named=True)
        self.tea = max((row["tea_percent"] or 0) / 100 * self.median, row["tea_absolute"] or 0)

    def effects(self, day: int) -> tuple[float, np.ndarray]:
        """What the day does to the patients of all devices, and to each device, in the analyte's unit."""
        size = np.random.default_rng([self.seed, 1, day // 30]).uniform(0.05, 0.10)
        rng = np.random.default_rng([self.seed, 2, day])
        return self.sd * size * rng.normal(), self.sd * 0.03 * rng.normal(size=DEVICES)

    def values(self, day: int, bias: np.ndarray | float = 0.0) -> np.ndarray:
        """Results, shape (devices, results a day); ``bias`` per device."""
        rng = np.random.default_rng([self.seed, 3, day])
        shared, own = self.effects(day)
        shift = shared + own + bias
        values = self.analyte.patients(rng, (DEVICES, self.analyte.results)) + np.asarray(shift)[:, None]
        return np.maximum(np.round(values, self.analyte.decimals), 10.0**-self.analyte.decimals)

    def daily(self, days: range, bias: np.ndarray | float = 0.0) -> pl.DataFrame:
        """Daily locations, as the platform makes them from rows."""
        values = np.stack([self.values(day, bias) for day in days])
        frame = frame_of(values, days[0], self.analyte.loinc)
        return daily_locations(frame, REFERENCE.analytes)

    def controls(self, days: range, bias: np.ndarray | float = 0.0) -> pl.DataFrame:
        """Daily controls; ``bias`` as the controls show it."""
        values = []
        for day in days:
            noise = np.random.default_rng([self.seed, 4, day]).normal(0, CONTROL_SD * self.tea, (DEVICES, CONTROLS))
            values.append(self.median + noise + np.asarray(self.effects(day)[1] + bias)[:, None])
        frame = frame_of(np.stack(values), days[0], self.analyte.loinc).rename({"value_number": "measured_value"})
        made = frame.with_columns(
            expected_value=pl.lit(self.median), reason=pl.lit(None, dtype=pl.String), is_repeat=pl.lit(False)
        )
        return daily_controls(made, REFERENCE.analytes)


def frame_of(values: np.ndarray, first_day: int, loinc: str) -> pl.DataFrame:
    """Rows of lab_results_standardized; values: shape (days, devices, results)."""
    days, devices, results = values.shape
    start = np.datetime64(START) + first_day
    return pl.DataFrame(
        {
            "event_date": np.repeat(start + np.arange(days), devices * results),
            "device_id": pl.Series(np.tile(np.repeat(np.arange(devices), results), days)).cast(pl.String),
            "value_number": values.ravel(),
        }
    ).with_columns(
        pl.col("event_date").cast(pl.Date),
        loinc_code=pl.lit(loinc),
        value_kind=pl.lit("number"),
        comparator=pl.lit(None, dtype=pl.String),
    )


def alarms(report: pl.DataFrame) -> pl.DataFrame:
    return report.with_columns(alarm=pl.col("alert_level").is_in(["HIGH", "CRITICAL"]))


def false_alarms(daily: pl.DataFrame, controls: pl.DataFrame, days: range) -> tuple[int, int]:
    """Weeks with an alarm day, and weeks, over devices."""
    wanted = [START + timedelta(days=d) for d in days]
    report = alarms(device_verdicts(daily, controls, REFERENCE.analytes, wanted, LIMITS))
    evaluated = report["outcome"].str.starts_with("evaluated")
    assert evaluated.all(), report.filter(~evaluated)["outcome"].unique().to_list()
    week = (pl.col("as_of_date") - START).dt.total_days() // 7
    weeks = report.group_by("subject", week.alias("week")).agg(pl.col("alarm").any(), days=pl.len()).filter(days=7)
    return int(weeks["alarm"].sum()), weeks.height


def delays(
    lab: Lab, daily: pl.DataFrame, controls: pl.DataFrame, days: range, episodes: int, seen_by_controls: bool
) -> tuple[np.ndarray, np.ndarray, float]:
    """Days until HIGH or CRITICAL and until CRITICAL (99: not within AFTER), and the sisters' share of weeks in alarm."""
    rng = np.random.default_rng([lab.seed, 5])
    anchor = START + timedelta(days=LIMITS.history_days + 7)
    frames, checks, moved = [], [], []
    for episode, zero in enumerate(rng.choice(np.arange(days[0], days[-1] - AFTER), episodes, replace=False).tolist()):
        device, sign = int(rng.integers(DEVICES)), rng.choice([-1.0, 1.0])
        bias = np.where(np.arange(DEVICES) == device, sign * lab.tea / 2, 0.0)
        spell, since = range(zero, zero + AFTER), START + timedelta(days=zero)
        pick = pl.col("event_date").is_between(since - timedelta(days=LIMITS.history_days), since, closed="left")
        # the episodes lie side by side, day 0 on one date (every weekday is alike here), each an analyte of its own
        placed = [pl.col("event_date") + (anchor - since), pl.lit(f"{lab.analyte.loinc}#{episode}").alias("loinc_code")]
        frames.append(pl.concat([daily.filter(pick), lab.daily(spell, bias)]).with_columns(placed))
        seen = bias if seen_by_controls else 0.0
        checks.append(pl.concat([controls.filter(pick), lab.controls(spell, seen)]).with_columns(placed))
        moved.append({"loinc_code": f"{lab.analyte.loinc}#{episode}", "subject": str(device)})
    row = REFERENCE.analytes.filter(loinc_code=lab.analyte.loinc).drop("loinc_code")
    analytes = pl.DataFrame(moved).select("loinc_code").join(row, how="cross")
    wanted = [anchor + timedelta(days=d) for d in range(AFTER)]
    report = alarms(device_verdicts(pl.concat(frames), pl.concat(checks), analytes, wanted, LIMITS))
    day = (pl.col("as_of_date") - anchor).dt.total_days() + 1
    target = report.join(pl.DataFrame(moved), on=["loinc_code", "subject"])
    found = []
    for hit in (pl.col("alarm"), pl.col("alert_level") == "CRITICAL"):
        first = target.group_by("loinc_code").agg(pl.when(hit).then(day).min().fill_null(99).alias("delay"))
        found.append(first["delay"].to_numpy())
    sisters = report.join(pl.DataFrame(moved), on=["loinc_code", "subject"], how="anti").filter(day <= 7)
    return found[0], found[1], float(sisters.group_by("loinc_code", "subject").agg(pl.col("alarm").any())["alarm"].mean())


def naive_ks(lab: Lab, first_day: int) -> tuple[float, float]:
    """KS of a device's day against its 56 days before at p < 0.05: share of stationary weeks in alarm; median delay."""
    past = np.stack([lab.values(d) for d in range(first_day, first_day + 56)])
    today = [lab.values(d) for d in range(first_day + 56, first_day + 70)]
    weeks, delay = [], []
    for device in range(DEVICES):
        reference = past[:, device].ravel()
        hit = [stats.ks_2samp(reference, t[device], method="asymp").pvalue < 0.05 for t in today]
        weeks += [any(hit[:7]), any(hit[7:])]
        biased = [stats.ks_2samp(reference, t[device] + lab.tea / 2, method="asymp").pvalue < 0.05 for t in today[:7]]
        delay.append(biased.index(True) + 1 if any(biased) else 99)
    return float(np.mean(weeks)), float(np.median(delay))


def oracle(lab: Lab, seen_by_controls: bool, weeks: int = 30_000) -> np.ndarray:
    """Share of biases found by days 1 to 7, for each day by the statistic that is best for it."""
    daily = lab.daily(range(10))
    variance = float((daily["variance"] / daily["results"]).mean() or 0.0)
    is_ratio = ratio_scale(REFERENCE.analytes).filter(loinc_code=lab.analyte.loinc)["is_ratio"].item()
    precision = 1 / (variance * (lab.median**2 if is_ratio else 1.0))
    if seen_by_controls:
        precision += CONTROLS / (CONTROL_SD * lab.tea) ** 2
    # the sisters take out what all devices share, at the price of their own noise
    noise = np.sqrt(((0.03 * lab.sd) ** 2 + 1 / precision) * DEVICES / (DEVICES - 1))
    shift, before, days = lab.tea / 2 / noise, 21, 28
    rng = np.random.default_rng([lab.seed, 7])
    z = rng.normal(size=(2, weeks, days))
    z[1, :, before:] += shift
    total = np.concatenate([np.zeros((2, weeks, 1)), z.cumsum(axis=2)], axis=2)
    statistics = [np.abs(total[:, :, before + 1 :] - total[:, :, before + 1 - k : days + 1 - k]) for k in range(1, 8)]
    for reference in (0.25, 0.375, 0.5):  # of the shift: what a CUSUM takes off every day
        sides, path = np.zeros((2, 2, weeks)), []
        for day in range(days):
            sides = np.maximum(0, sides + np.stack([z[:, :, day], -z[:, :, day]]) - reference * shift)
            path.append(sides.max(axis=0))
        statistics.append(np.stack(path[before:], axis=2))
    found = [(np.maximum.accumulate(s[1], axis=1) > np.quantile(s[0].max(axis=1), 0.99)).mean(axis=0) for s in statistics]
    return np.max(found, axis=0)


def known_case(seed: int, repeats: int = 100) -> float:
    """Share of glucose 95 SD 15, one of 20 devices at 105 today, 150 results a day, that is CRITICAL on the day."""
    rng = np.random.default_rng([seed, 6])
    hits = 0
    for _ in range(repeats):
        values = rng.normal(95, 15, (LIMITS.history_days + 1, 4, 150)) + 15 * rng.normal(
            0, 0.08, (LIMITS.history_days + 1, 1, 1)
        )
        values[-1, 0] += 10
        day = START + timedelta(days=LIMITS.history_days)
        report = device_drift(frame_of(values, 0, "2345-7"), REFERENCE.analytes, [day], LIMITS)
        hits += report.filter(subject="0")["alert_level"].item() == "CRITICAL"
    return hits / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--months", type=int, default=200)
    parser.add_argument("--episodes", type=int, default=200)
    parser.add_argument("--log-effects", action="store_true", help="day effects in SD of the logarithm, at the median")
    parser.add_argument("--only", choices=list(PATIENTS), help="one analyte")
    options = parser.parse_args()
    started = time.perf_counter()
    lead = LIMITS.history_days + 7
    print("              stationary      | hidden from controls, oracle             | seen, oracle | KS at p < 0.05")
    print("analyte  bias/SD weeks  false | median    <=7d        critical sisters | <=3d         | weeks in alarm, delay")
    for number, (name, analyte) in enumerate(PATIENTS.items()):
        if options.only not in (None, name):
            continue
        lab = Lab(analyte, options.seed * 1000 + number, options.log_effects)
        days = range(lead, lead + 30 * options.months)
        chunks = [range(d, min(d + 10, days[-1] + 1)) for d in range(0, days[-1] + 1, 10)]
        daily = pl.concat([lab.daily(chunk) for chunk in chunks])
        controls = lab.controls(range(days[-1] + 1))
        alarm, weeks = false_alarms(daily, controls, days)
        hidden, critical, sisters = delays(lab, daily, controls, days, options.episodes, False)
        seen, _, _ = delays(lab, daily, controls, days, options.episodes, True)
        ks_weeks, ks_delay = naive_ks(lab, 0)
        best_hidden, best_seen = oracle(lab, False), oracle(lab, True)
        best_median = int(np.searchsorted(best_hidden, 0.5)) + 1
        print(
            f"{name:<12}{lab.tea / 2 / lab.sd:4.2f}{weeks:>6}{alarm / weeks:>7.2%} | {np.median(hidden):>4.0f} d"
            f", {best_median} d{np.mean(hidden <= 7):>7.1%}, {best_hidden[6]:.1%}"
            f"{np.mean(critical <= 7):>7.1%}{sisters:>8.2%} | {np.mean(seen <= 3):>5.1%}, {best_seen[2]:.1%}"
            f" | {ks_weeks:.0%}, {ks_delay:.0f} d",
            flush=True,
        )
    print(f"95 -> 105 mg/dL, critical on the day: {known_case(options.seed):.0%}")
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
