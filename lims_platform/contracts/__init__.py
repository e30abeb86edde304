"""What every table looks like: columns, dtypes, units, keys, partition column, meaning.

Here: the source tables a LIMS offers (``source``) and one Pandera model per lake table (``bronze``, ``silver``, ``gold``).
Not here: checks as Dagster knows them (``automation.checks``), anything that reads or writes.
"""
