"""The reference tables a laboratory edits (data/reference/*.csv) together: the bundle the science reads, all tables by name.

Here: the union. Not here: what each table means (``reference_results``, ``reference_watch``), reading the files
(``lakehouse.reference``) or using them (``laboratory.values``, ``units``, ``terminology``, ``limits``).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from lims_platform.contracts.reference_results import MEANING
from lims_platform.contracts.reference_table import ReferenceTable
from lims_platform.contracts.reference_watch import WATCHING


@dataclass(frozen=True)
class Reference:
    """Every reference table as a frame of its schema, and the digest that names this state of them.

    ``digest`` is the SHA-256 of the bytes of the files that standardise (names included, extra LOINC maps too): two runs
    with the same digest standardised alike.
    """

    analytes: pl.DataFrame
    loinc_map: pl.DataFrame
    loinc_equivalents: pl.DataFrame
    specimens: pl.DataFrame
    units: pl.DataFrame
    unit_aliases: pl.DataFrame
    unit_conversions: pl.DataFrame
    unit_traps: pl.DataFrame
    value_codes: pl.DataFrame
    comparator_words: pl.DataFrame
    critical_limits: pl.DataFrame
    sigma_rules: pl.DataFrame
    alert_rules: pl.DataFrame
    drift_limits: pl.DataFrame
    sample_limits: pl.DataFrame
    digest: str


REFERENCE_TABLES: dict[str, ReferenceTable] = {t.name: t for t in (*MEANING, *WATCHING)}
