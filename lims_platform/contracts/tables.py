"""All lake tables by name. Here: the union of the layers' contracts, nothing else."""

from __future__ import annotations

from lims_platform.contracts.alerts import ALERT_TABLES
from lims_platform.contracts.base import Table
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.gold import GOLD_TABLES
from lims_platform.contracts.learning import LEARNING_TABLES
from lims_platform.contracts.operations import OPERATIONS_TABLES
from lims_platform.contracts.patient_qc import PATIENT_QC_TABLES
from lims_platform.contracts.samples import SAMPLE_TABLES
from lims_platform.contracts.silver import SILVER_TABLES
from lims_platform.contracts.watch import WATCH_TABLES

LAYERS = (
    BRONZE_TABLES,
    SILVER_TABLES,
    GOLD_TABLES,
    WATCH_TABLES,
    SAMPLE_TABLES,
    PATIENT_QC_TABLES,
    LEARNING_TABLES,
    ALERT_TABLES,
    OPERATIONS_TABLES,
)
TABLES: dict[str, Table] = {table.name: table for layer in LAYERS for table in layer.values()}
