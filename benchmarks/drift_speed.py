"""Speed of the distribution statistics: 10 features × 1 million against 100,000 rows, beside Evidently's drift preset.

Run: python benchmarks/drift_speed.py [--evidently PYTHON] [--seed 1]. PYTHON is the interpreter of a virtual environment
with evidently and pandas below 3; without it the script makes one under the temporary directory with pip, and says so
plainly where that fails. Both sides get the same arrays from one file and are timed without reading it, best of three.
Ours computes the Kolmogorov-Smirnov distance, the normed Wasserstein distance and PSI of every feature; Evidently's
DataDriftPreset its default for samples of this size, the normed Wasserstein distance.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import numpy as np
from scipy import stats

from lims_platform.laboratory.distribution_shift import two_samples

FEATURES, REFERENCE, CURRENT, BITS = 10, 1_000_000, 100_000, 11
EVIDENTLY = """
import json, sys, time
import numpy as np, pandas as pd
from evidently import Report
from evidently.presets import DataDriftPreset
a = np.load(sys.argv[1]); names = [f"f{i}" for i in range(a["reference"].shape[0])]
reference, current = (pd.DataFrame(a[k].T, columns=names) for k in ("reference", "current"))
best = float("inf")
for _ in range(3):
    started = time.perf_counter()
    snapshot = Report([DataDriftPreset()]).run(current, reference)
    answer = snapshot.json()
    best = min(best, time.perf_counter() - started)
import evidently
print(json.dumps({"seconds": best, "version": evidently.__version__, "pandas": pd.__version__}))
"""


def evidently_python(given: str | None) -> str | None:
    """The interpreter to run Evidently with, or None where there is none."""
    if given:
        return given
    folder = Path(tempfile.gettempdir()) / "drift-speed-evidently"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    done = subprocess.run([python, "-m", "pip", "install", "-q", "evidently", "pandas<3"], capture_output=True, text=True)
    if done.returncode:
        print(f"no Evidently: pip failed ({done.stderr.strip().splitlines()[-1:]})")
        return None
    return str(python)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--evidently", help="python of a virtual environment with evidently and pandas < 3")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    scale = rng.uniform(0.2, 1.0, (FEATURES, 1))
    reference = np.exp(scale * rng.normal(size=(FEATURES, REFERENCE)) + 3)
    current = np.exp(scale * (rng.normal(size=(FEATURES, CURRENT)) + 0.1 * (np.arange(FEATURES) % 2)[:, None]) + 3)
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        found = two_samples(reference, current, BITS)
        best = min(best, time.perf_counter() - started)
    exact = [stats.ks_2samp(r, c, method="asymp").statistic for r, c in zip(reference, current, strict=True)]
    print(f"ours: {best:.2f} s for KS, Wasserstein, PSI; largest error of KS {np.abs(found['ks'][0] - exact).max():.1e}")
    python = evidently_python(options.evidently)
    if python is None:
        sys.exit("Evidently is absent: no ratio")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.npz"
        np.savez(path, reference=reference, current=current)
        done = subprocess.run([python, "-c", EVIDENTLY, str(path)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"Evidently failed: {done.stderr.strip()[-500:]}")
    theirs = json.loads(done.stdout.splitlines()[-1])
    print(f"Evidently {theirs['version']} (pandas {theirs['pandas']}), DataDriftPreset: {theirs['seconds']:.2f} s")
    print(f"ratio: {theirs['seconds'] / best:.0f} ×")


if __name__ == "__main__":
    main()
