"""The demo laboratory lives on: new results every hour, so that an idle installation has something to read.

Here: the job and its schedule, both absent outside the demo. Not here: what happens in the laboratory (``simulator.live``).
"""

import subprocess
import sys

import dagster as dg

from lims_platform.automation.clocks import by_the_clock
from lims_platform.settings import settings


@dg.op(description="Advance the demo LIMS to now, in a process of its own: who reads a SQLite file never writes it.")
def advance_demo_laboratory(context: dg.OpExecutionContext) -> None:
    """Run the simulator's command; its last lines are the run's log. Fails with the command's own message."""
    folder = settings().data_dir / "demo"
    command = [sys.executable, "-m", "lims_platform.simulator", "live"]
    command += ["--to", f"sqlite:///{folder / 'lims.db'}", "--truth", str(folder / "truth")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise dg.Failure(f"the demo laboratory could not live on: {done.stderr.strip()[-500:]}", allow_retries=False)
    context.log.info(done.stdout)


@dg.job(description="New results, verifications, amendments and deletions in the demo LIMS, up to now.")
def demo_lab() -> None:
    """One op: the writer has a run of its own."""
    advance_demo_laboratory()


demo_lab_lives_on = by_the_clock(
    demo_lab,
    "50 * * * *",
    "Ten minutes before every reading the demo laboratory produces the last hour's results.",
    name="demo_lab_lives_on",
)

#: A laboratory with sources of its own, or in production, has neither.
IS_DEMO = settings().environment == "demo" and settings().sources is None
DEMO_JOBS = [demo_lab] if IS_DEMO else []
DEMO_SCHEDULES = [demo_lab_lives_on] if IS_DEMO else []
