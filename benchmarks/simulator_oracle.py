"""How well failures can be foreseen at best: the oracle's ROC-AUC at 1,000 devices × 400 days, over several seeds.

The oracle knows the latent state at the end of D and nothing of the future; days in outage are left out, as in training.
The baseline is the AUC of the device's lasting proneness alone (age, load, frailty).
Usage: ``python benchmarks/simulator_oracle.py [--devices 1000] [--days 400] [--seeds 5]``.
"""

from __future__ import annotations

import argparse
from datetime import date

import numpy as np
from sklearn.metrics import roc_auc_score

from lims_platform.simulator.config import LabConfig
from lims_platform.simulator.wear import HORIZON, oracle_probability
from lims_platform.simulator.world import make_world


def main() -> None:
    """Print one line per seed: failures per device-year, AUC of oracle and baseline, their ratio, calibration."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--days", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    print("seed  failures/device-year  by chance  AUC oracle  AUC proneness  ratio  observed/expected")
    for seed in range(options.seeds):
        config = LabConfig(seed=seed, end=date(2025, 12, 31), days=options.days, devices=options.devices)
        world = make_world(config)
        fails = np.isfinite(world.path.failed_at[: config.days])
        total = np.vstack([np.zeros(fails.shape[1]), fails.cumsum(axis=0)])
        label = (total[1 + HORIZON :] - total[1:-HORIZON]) > 0
        day, device = np.indices(label.shape)
        up = world.down_until(device, world.clock.day_start(day + 1) - 1) == 0
        expected = oracle_probability(world.path)[: config.days - HORIZON]
        oracle = roc_auc_score(label[up], expected[up])
        prone = roc_auc_score(label[up], world.path.proneness[: config.days - HORIZON][up])
        rate = fails.sum() / (config.devices * config.days / 365.25)
        chance = 1 - world.path.from_wear[: config.days].sum() / fails.sum()
        print(
            f"{seed:>4}  {rate:>20.2f}  {chance:>9.2f}  {oracle:>10.3f}  {prone:>13.3f}  {oracle / prone:>5.2f}"
            f"  {label[up].mean() / expected[up].mean():>17.3f}"
        )


if __name__ == "__main__":
    main()
