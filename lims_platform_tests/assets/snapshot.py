"""What the platform defines, as sorted lines: ``python -m lims_platform_tests.assets.snapshot`` rewrites definitions.txt.

A change of the graph, its checks, jobs or clocks is then seen in review. Not here: what must hold (``test_definitions``).
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

SNAPSHOT = Path(__file__).with_name("definitions.txt")


def lines(defs: dg.Definitions) -> list[str]:
    """One line per asset, check, job, schedule and sensor."""
    graph = defs.resolve_asset_graph()
    found = []
    for key in graph.get_all_asset_keys():
        node = graph.get(key)
        days = "daily" if node.is_partitioned else "unpartitioned"
        found.append(f"asset {key.to_user_string()} in {node.group_name}, {days}, of {', '.join(sorted(node.owners))}")
    for check in graph.asset_check_keys:
        blocking = "blocking" if graph.get(check).blocking else "warning"
        found.append(f"check {check.asset_key.to_user_string()} {check.name} ({blocking})")
    for job in defs.jobs or []:
        if isinstance(job, dg.JobDefinition):
            found.append(f"job {job.name}: ops {' '.join(sorted(node.name for node in job.nodes))}")
            continue
        keys = sorted(key.to_user_string() for key in job.selection.resolve(graph))
        found.append(f"job {job.name}: {' '.join(keys)}")
    found += [f"schedule {s.name}: {s.cron_schedule} starts {s.job_name}" for s in defs.schedules or []]
    found += [f"sensor {sensor.name}" for sensor in defs.sensors or []]
    return sorted(found)


if __name__ == "__main__":
    from lims_platform.definitions import defs as platform

    SNAPSHOT.write_text("\n".join(lines(platform)) + "\n")
