"""The Westgard rules by name, the sets a laboratory chooses from, and which set an analyte's sigma calls for.

Here: what a rule counts, beyond which limit, within what. Not here: applying them (``westgard``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Rule:
    """``count`` controls beyond ``limit`` SD.

    ``within``: "one" control; "run": any of one run; "level": consecutive of one level of one lot; "run or level":
    either; "both sides": of one run, some above and some below. ``trend``: each further out than the one before it.
    """

    severity: Literal["warning", "rejection"]
    limit: float
    count: int
    within: Literal["one", "run", "level", "run or level", "both sides", "trend"]


#: Westgard, Barry, Hunt, Groth, Clin Chem 1981;27:493-501; 8x, 12x, 7T and the rules for three levels: Westgard,
#: Basic QC Practices, 4th ed. 2016.
RULES: dict[str, Rule] = {
    "1-2s": Rule("warning", 2, 1, "one"),
    "1-3s": Rule("rejection", 3, 1, "one"),
    "2-2s": Rule("rejection", 2, 2, "run or level"),
    "2of3-2s": Rule("rejection", 2, 2, "run"),
    "R-4s": Rule("rejection", 2, 2, "both sides"),
    "3-1s": Rule("rejection", 1, 3, "run or level"),
    "4-1s": Rule("rejection", 1, 4, "run or level"),
    "6x": Rule("rejection", 0, 6, "level"),
    "8x": Rule("rejection", 0, 8, "level"),
    "9x": Rule("rejection", 0, 9, "level"),
    "10x": Rule("rejection", 0, 10, "level"),
    "12x": Rule("rejection", 0, 12, "level"),
    "7T": Rule("rejection", 0, 7, "trend"),
}

#: The classical multirule for two or four controls.
STANDARD = ("1-2s", "1-3s", "2-2s", "R-4s", "4-1s", "10x")
#: For three levels of control.
THREE_LEVELS = ("1-2s", "1-3s", "2of3-2s", "R-4s", "3-1s", "12x")


def chosen(names: Iterable[str]) -> dict[str, Rule]:
    """The rules of these names; ValueError naming those that do not exist."""
    names = list(names)
    unknown = [name for name in names if name not in RULES]
    if unknown:
        raise ValueError(f"unknown Westgard rules {unknown}; there are {list(RULES)}")
    return {name: RULES[name] for name in names}
