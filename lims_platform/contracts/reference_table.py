"""What a reference table is: a CSV file a laboratory edits, its columns, its key, what it refers to.

Here: the description of any such table. Not here: the tables themselves (``reference_results``, ``reference_watch``).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

#: In a key column of the LOINC map, the conversions and the limits: any value, or none.
ANY = "*"
#: Families of what is measured on no specimen, or on any: a temperature sent with a blood gas, a specimen's own kind.
NO_SPECIMEN = ("patient", "any")


@dataclass(frozen=True)
class ReferenceColumn:
    """One CSV column. ``required`` cells may not be empty; ``allowed`` lists the only values a cell may hold."""

    name: str
    dtype: pl.DataType
    description: str
    required: bool = False
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class ReferenceTable:
    """One CSV file. ``key`` is unique; ``refers`` maps a column to the (table, column) its values must exist in."""

    name: str
    description: str
    key: tuple[str, ...]
    columns: tuple[ReferenceColumn, ...]
    refers: tuple[tuple[str, str, str], ...] = ()
    #: Whether its content changes how a result is standardised: only such tables enter the digest.
    standardises: bool = True

    @property
    def schema(self) -> dict[str, pl.DataType]:
        """Column name to polars dtype, in file order."""
        return {c.name: c.dtype for c in self.columns}


def text(name: str, description: str, *, required: bool = False, allowed: tuple[str, ...] = ()) -> ReferenceColumn:
    """A column of text."""
    return ReferenceColumn(name, pl.String(), description, required, allowed)


def number(name: str, description: str, *, required: bool = False) -> ReferenceColumn:
    """A column of numbers."""
    return ReferenceColumn(name, pl.Float64(), description, required)
