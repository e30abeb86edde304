"""Means and SDs of samples with 30 % censored values: error of the platform's estimate against that of substitution.

Run: python benchmarks/censored.py [samples]. Lognormal samples of 200 results, as laboratories have them: three spreads
(sodium has 0.02, most enzymes 0.4, C-reactive protein above 1), one limit of detection or two. Prints per case the root
mean square error against the complete sample's own mean and SD in percent of it: of regression on order statistics
(laboratory/censored.py), of leaving censored values out, of putting the limit, its half or zero in their place; and the
worst case of each as a ratio to ours. Half the limit is right for one spread by luck and wrong for the others.
"""

from __future__ import annotations

import sys

import numpy as np
import polars as pl

from lims_platform.laboratory.censored import order_statistics
from lims_platform.laboratory.value_grid import Floats, Segments

RESULTS, CENSORED = 200, 0.3
SPREADS = (0.1, 0.4, 1.2)
METHODS = ("ours", "left out", "limit", "limit / 2", "zero")


def regressed(values: Floats, below: Floats) -> tuple[Floats, Floats]:
    """Mean and SD of every row of ``values`` by the platform's estimate."""
    subject = np.repeat(np.arange(len(values)), values.shape[1])
    cells = pl.DataFrame({"subject": subject, "value": values.ravel(), "below": below.ravel()})
    censored = pl.col("below").cast(pl.Int32)
    grid = cells.group_by("subject", "value").agg(numbers=(1 - censored).sum(), below=censored.sum())
    grid = grid.sort("subject", "value")
    segments = Segments(grid["subject"].to_numpy(), grid["value"].to_numpy(), len(values))
    numbers, hidden = (grid[name].to_numpy()[None, :] for name in ("numbers", "below"))
    out = order_statistics(segments, numbers, hidden, np.zeros_like(hidden))
    return out.mean[0], out.sd[0]


def errors(samples: int, spread: float, limits: int, seed: int) -> dict[str, Floats]:
    """Root mean square error of mean and SD in percent of the truth, by method."""
    rng = np.random.default_rng(seed)
    values = rng.lognormal(0.0, spread, (samples, RESULTS))
    # two instruments: the shares below their limits average to CENSORED
    shares = [CENSORED] if limits == 1 else [CENSORED / 2, 1.5 * CENSORED]
    cuts = np.quantile(values, shares)
    limit = cuts[rng.integers(0, limits, values.shape)]
    below = values < limit
    seen = np.where(below, limit, values)
    mean, sd = values.mean(axis=1), values.std(axis=1, ddof=1)
    estimates = {"ours": regressed(seen, below)}
    shown = np.where(below, np.nan, values)
    estimates["left out"] = np.nanmean(shown, axis=1), np.nanstd(shown, axis=1, ddof=1)
    for name, share in (("limit", 1.0), ("limit / 2", 0.5), ("zero", 0.0)):
        filled = np.where(below, share * limit, values)
        estimates[name] = filled.mean(axis=1), filled.std(axis=1, ddof=1)
    return {
        name: 100 * np.sqrt([np.mean((m / mean - 1) ** 2), np.mean((s / sd - 1) ** 2)]) for name, (m, s) in estimates.items()
    }


def main(samples: int = 2_000) -> None:
    """Prints a line per case, and the ratios of the worst cases."""
    print(f"{RESULTS} lognormal results, {CENSORED:.0%} below a limit, {samples:,} samples; error of mean / SD in %")
    print(f"{'spread':>8}{'limits':>8}" + "".join(f"{name:>16}" for name in METHODS))
    worst = {name: np.zeros(2) for name in METHODS}
    for number, (spread, limits) in enumerate((s, n) for s in SPREADS for n in (1, 2)):
        found = errors(samples, spread, limits, number)
        print(f"{spread:>8}{limits:>8}" + "".join(f"{found[m][0]:9.2f} /{found[m][1]:5.1f}" for m in METHODS))
        worst = {name: np.maximum(worst[name], found[name]) for name in METHODS}
    ratios = "".join(f"{worst[m][0] / worst['ours'][0]:9.1f} /{worst[m][1] / worst['ours'][1]:5.1f}" for m in METHODS)
    print(f"{'worst case, ratio':<16}" + ratios[1:])


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
