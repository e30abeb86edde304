"""The common form of a table contract.

Here: how a contract states key, partition column and meaning, and what a column's description and unit look like.
Not here: any one table (``bronze``, ``silver``, ``gold``), or running a contract as a check (``automation.checks``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl

UtcTime = Annotated[pl.Datetime, "us", "UTC"]
UtcTimes = Annotated[pl.List, pl.Datetime("us", "UTC")]
Numbers = Annotated[pl.List, pl.Float64]


def column(description: str, *, unit: str | None = None, nullable: bool = False, **checks: Any) -> pa.Field:  # type: ignore[valid-type]
    """A contract column: its meaning in words, its unit, and pandera's own checks (ge, le, isin, …)."""
    return pa.Field(description=description, metadata={"unit": unit} if unit else None, nullable=nullable, **checks)


@dataclass(frozen=True)
class Table:
    """One lake table: where it lives, what makes a row unique, how it is cut into days, what its columns are.

    ``partition`` is None for a table that is one slice (a register, a report). ``key`` is unique within the table,
    for a table partitioned by day within each day. ``code_version`` is raised when a column changes its meaning or type:
    Dagster then shows older materialisations as stale (docs/operations.md, Migrate).
    """

    layer: str
    name: str
    key: tuple[str, ...]
    partition: str | None
    description: str
    schema: pa.DataFrameSchema
    code_version: str = "1"

    @property
    def pool(self) -> str:
        """Dagster's concurrency pool of the table: one writer or compaction at a time."""
        return f"lake/{self.layer}/{self.name}"

    @property
    def path(self) -> str:
        """Folder below the lake, ``<layer>/<table>``."""
        return f"{self.layer}/{self.name}"

    @property
    def dtypes(self) -> dict[str, pl.DataType]:
        """Column name to polars dtype, in the contract's order."""
        return {name: col.dtype.type for name, col in self.schema.columns.items()}

    def empty(self) -> pl.DataFrame:
        """A frame of no rows with exactly the contract's columns."""
        return pl.DataFrame(schema=self.dtypes)


def table(layer: str, key: tuple[str, ...], partition: str | None, model: type[pa.DataFrameModel]) -> Table:
    """Make a Table of a pandera model; its name and description are the model's own."""
    schema = model.to_schema()
    return Table(layer, schema.name, key, partition, (model.__doc__ or "").strip(), schema)
