"""Work done once per distinct value: laboratory data repeats itself, and text is dear.

Here: one helper. It keeps the plan lazy: the streaming engine hands over one batch at a time. Not here: any
laboratory rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import polars as pl

#: Answers kept from batch to batch; more are forgotten, so memory stays bounded whatever the data.
REMEMBERED = 100_000
_ANSWER = "__answer__"


def per_distinct(
    keys: Mapping[str, pl.Expr],
    resolve: Callable[[pl.DataFrame], pl.DataFrame],
    fields: Mapping[str, pl.DataType],
) -> pl.Expr:
    """A struct expression: ``resolve`` applied to each distinct combination of ``keys``, spread over the rows.

    ``resolve`` takes a frame of the key columns (distinct rows) and returns a frame with one row for each of them, in
    the same order, that has the columns ``fields``. It must depend on nothing but its row: batches are cut anywhere,
    and a combination seen before is answered from memory. RuntimeError if it returns another number of rows.
    """
    remembered = _Remembered(resolve, list(keys), dict(fields))
    return pl.struct([expression.alias(name) for name, expression in keys.items()]).map_batches(
        remembered.spread, return_dtype=pl.Struct(dict(fields)), is_elementwise=True
    )


class _Remembered:
    """Answers by key. Threads share it without a lock: each works on the frame it saw and publishes a whole new one;
    the worst that can happen is that an answer is worked out twice.
    """

    def __init__(
        self, resolve: Callable[[pl.DataFrame], pl.DataFrame], names: list[str], fields: dict[str, pl.DataType]
    ) -> None:
        self._resolve, self._names, self._fields = resolve, names, fields
        self._known: pl.DataFrame | None = None

    def spread(self, batch: pl.Series) -> pl.Series:
        """The answer for every row of a batch of key structs."""
        rows = batch.struct.unnest()
        distinct = rows.unique(maintain_order=False)
        answered = self._answers(distinct)
        return rows.join(answered, on=self._names, how="left", nulls_equal=True, maintain_order="left")[_ANSWER]

    def _answers(self, distinct: pl.DataFrame) -> pl.DataFrame:
        known = self._known
        if known is None:
            self._known = fresh = self._worked_out(distinct)
            return fresh
        new = distinct.join(known, on=self._names, how="anti", nulls_equal=True)
        if new.height:
            fresh = self._worked_out(new)
            known = pl.concat([known, fresh]) if known.height + fresh.height <= REMEMBERED else None
            # a full memory starts again with this batch; only what this batch needs is looked up below
            self._known = fresh if known is None else known
            if known is None:
                return self._worked_out(distinct)
        return distinct.join(known, on=self._names, how="left", nulls_equal=True)

    def _worked_out(self, distinct: pl.DataFrame) -> pl.DataFrame:
        answer = self._resolve(distinct).select([pl.col(n).cast(t) for n, t in self._fields.items()])
        if answer.height != distinct.height:
            raise RuntimeError(f"{self._resolve!r} made {answer.height} rows of {distinct.height}")
        return distinct.with_columns(answer.to_struct(_ANSWER))
