"""UCUM, the second reader of a unit: what unit_aliases.csv does not know may still be a code of the standard.

Here: validity, size and dimension of a UCUM code by ucumvert over pint, and the guard in front of them. Not here: the
spellings laboratories use (``units``): those are looked up first, because UCUM read strictly makes kelvin of ``K/uL``,
picohenry of ``pH`` and gauss of ``G/L`` (docs/adr/0005-ucum.md).

The libraries are imported when the first unknown spelling is met: most laboratories never need them.
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import polars as pl

from lims_platform.contracts.reference import Reference

#: Atoms whose meaning nobody mistakes in a result's unit. No K, G, T, H, [IU] or annotation: a letter that is also a
#: prefix, and what UCUM calls arbitrary, do not convert by arithmetic.
_ATOMS = frozenset(
    {"g", "mol", "L", "l", "m", "s", "min", "h", "d", "eq", "osm", "kat", "U", "Pa", "bar", "m[Hg]", "m[H2O]"}
)
_POWERS_OF_TEN = frozenset({"10*", "10^"})
#: Nothing in blood is counted in megagrams: an upper-case M, G or P is a slip of the shift key.
_PREFIXES = frozenset({"a", "f", "p", "n", "u", "m", "c", "d", "k"})
#: Kinds of their own although their dimension is that of an amount of substance.
_COUNTED = frozenset({"eq", "osm"})
_LONGEST = 40
#: A plain number takes no exponent in UCUM ("10+3"); the parser lets it pass.
_NUMBER_TO_A_POWER = re.compile(r"(?:^|[./(])[0-9]+[+-][0-9]")
#: pint builds and caches its registry without a lock of its own: two batches that meet their first unknown unit at the
#: same time would each read half of the other's definitions.
_LOCK = threading.RLock()
_BIG_LITRE = re.compile(r"(?<![a-z\[])([afpnumcdk]?)l(?![a-z\]])")


@dataclass(frozen=True)
class Size:
    """What a UCUM code measures: its base units, the counted atoms in it, and its size in those base units."""

    dimension: str
    counted: frozenset[str]
    factor: float


@lru_cache(maxsize=1)
def _library() -> tuple[Any, Any]:
    """The parser and the unit registry; 0.5 s once per process. Call it with _LOCK held."""
    from ucumvert import PintUcumRegistry, get_ucum_parser

    return get_ucum_parser(), PintUcumRegistry()


def is_valid(code: str) -> bool:
    """True for a code of UCUM's case-sensitive grammar with atoms of its tables; never raises."""
    return _tree(code) is not None


def convert(value: float, source: str, target: str) -> float:
    """``value`` in UCUM unit ``source`` as a value in ``target``. ValueError for an invalid code or another dimension."""
    from pint.errors import PintError

    for code in (source, target):
        if not is_valid(code):
            raise ValueError(f"{code!r} is no UCUM code")
    with _LOCK:
        registry = _library()[1]
        try:
            return float((value * registry.from_ucum(source)).to_base_units() / registry.from_ucum(target).to_base_units())
        except (PintError, AttributeError, TypeError) as error:
            raise ValueError(f"{source} does not convert to {target}") from error


def measure(code: str) -> Size | None:
    """Size of a UCUM code that passes the guard; None for everything else. Never raises."""
    letters = [c for c in code if c.isalpha()]
    if "{" in code or (len(letters) > 1 and all(c.isupper() for c in letters)):
        return None
    tree = _tree(code)
    if tree is None:
        return None
    counted = set()
    for node in tree.find_data("simple_unit"):
        kinds = {token.type: str(token) for token in node.children}
        atom = kinds.get("UNIT_METRIC") or kinds.get("UNIT_NON_METRIC") or ""
        if kinds.get("PREFIX_SHORT", "m") not in _PREFIXES:
            return None
        if "FACTOR" not in kinds and atom not in _ATOMS and atom not in _POWERS_OF_TEN:
            return None
        counted |= {atom} & _COUNTED
    with _LOCK:
        quantity = _library()[1].from_ucum(code).to_base_units()
    if quantity.dimensionless:
        return None
    return Size(str(quantity.units), frozenset(counted), float(quantity.magnitude))


def _tree(code: str) -> Any:
    from lark.exceptions import LarkError

    if not code or len(code) > _LONGEST or _NUMBER_TO_A_POWER.search(code):
        return None
    with _LOCK:
        try:
            return _library()[0].parse(code)
        except (LarkError, ValueError, RecursionError):
            return None


def with_ucum(reference: Reference, spellings: Iterable[str]) -> Reference:
    """The reference tables with a row of units for every spelling that is a guarded UCUM code of a known kind.

    A kind is known by the units of units.csv that have its dimension; where two kinds share one (a volume and a cell's
    volume), no spelling is read: the dimension does not say which is meant. ``spellings`` are those that alias_table
    does not know.
    """
    codes = {_BIG_LITRE.sub(r"\1L", re.sub("[µμ]", "u", s.strip())) for s in spellings}
    sized = {code: size for code in sorted(codes) if (size := measure(code)) is not None}
    if not sized:
        return reference
    kinds = _kinds(tuple(reference.units.select("unit", "unit_kind", "factor").rows()))
    known = {code: kinds[key] for code, size in sized.items() if (key := (size.dimension, size.counted)) in kinds}
    if not known:
        return reference
    rows = [(code, kind, sized[code].factor / base) for code, (kind, base) in known.items()]
    extra = pl.DataFrame(rows, schema=reference.units.schema, orient="row").with_columns(pl.col("factor").round_sig_figs(12))
    return dataclasses.replace(reference, units=pl.concat([reference.units, extra]).unique("unit", maintain_order=True))


@lru_cache(maxsize=4)
def _kinds(units: tuple[tuple[str, str, float], ...]) -> dict[tuple[str, frozenset[str]], tuple[str, float]]:
    """Dimension and counted atoms to the one unit kind that has them, with the size of the kind's base unit."""
    found: dict[tuple[str, frozenset[str]], dict[str, float]] = {}
    for unit, kind, factor in units:
        size = measure(unit)
        if size is not None:
            found.setdefault((size.dimension, size.counted), {}).setdefault(kind, size.factor / factor)
    return {key: next(iter(bases.items())) for key, bases in found.items() if len(bases) == 1}
