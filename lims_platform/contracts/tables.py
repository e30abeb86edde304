"""All lake tables by name. Here: the union of the layers' contracts, nothing else."""

from __future__ import annotations

from lims_platform.contracts.alerts import ALERT_TABLES
from lims_platform.contracts.base import Table
from lims_platform.contracts.bronze import BRONZE_TABLES
from lims_platform.contracts.gold import GOLD_TABLES
from lims_platform.contracts.learning import LEARNING_TABLES
from lims_platform.contracts.silver import SILVER_TABLES

TABLES: dict[str, Table] = {
    t.name: t for layer in (BRONZE_TABLES, SILVER_TABLES, GOLD_TABLES, LEARNING_TABLES, ALERT_TABLES) for t in layer.values()
}
