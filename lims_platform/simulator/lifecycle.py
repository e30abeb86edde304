"""The LIMS as of a moment, and what changed in it between two moments.

A result appears (sometimes days late), is preliminary until verified, may be amended, and may be deleted. The LIMS keeps the
current state only. Moments are UTC microseconds; an event at a moment is not known at that moment yet, but right after.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from lims_platform.simulator.pool import numbered
from lims_platform.simulator.results import Draft, to_frame
from lims_platform.simulator.world import World


@dataclass(frozen=True)
class Changes:
    """What happened to lab_results: new rows, rows whose content is now another, and result_ids that are gone."""

    inserted: pl.DataFrame
    updated: pl.DataFrame
    deleted: pl.Series


def snapshot(world: World, draft: Draft, moment: int) -> pl.DataFrame:
    """The rows the LIMS shows at that moment, as it shows them then."""
    return to_frame(world, draft, np.flatnonzero((draft.visible < moment) & (draft.deleted >= moment)), moment)


def changes(world: World, draft: Draft, since: int, moment: int) -> Changes:
    """What turns the LIMS of ``since`` into that of ``moment``: ``snapshot(since)`` plus this is ``snapshot(moment)``."""
    there = (draft.visible < since) & (draft.deleted >= since)
    alive = draft.deleted >= moment
    touched = np.zeros(draft.count, dtype=np.bool_)
    for event in (draft.verified, draft.amended):
        touched |= (event >= since) & (event < moment)
    inserted = (draft.visible >= since) & (draft.visible < moment) & alive
    return Changes(
        inserted=to_frame(world, draft, np.flatnonzero(inserted), moment),
        updated=to_frame(world, draft, np.flatnonzero(there & alive & touched), moment),
        deleted=numbered("R", draft.number[there & ~alive], 14),
    )
