"""Work done once per distinct value: laboratory data repeats itself, and text is dear.

Here: helpers that keep the plan lazy (the streaming engine hands over one batch at a time) and its texts few. Not here:
any laboratory rule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import polars as pl

#: Answers kept from batch to batch; more are forgotten, so memory stays bounded whatever the data.
REMEMBERED = 100_000
_ANSWER, _ASKED, _PLACE = "__answer__", "__asked__", "__place__"


def per_distinct(
    keys: Mapping[str, pl.Expr],
    resolve: Callable[[pl.DataFrame], pl.DataFrame],
    fields: Mapping[str, pl.DataType],
    where: pl.Expr | None = None,
) -> pl.Expr:
    """A struct expression: ``resolve`` applied to each distinct combination of ``keys``, spread over the rows.

    ``resolve`` takes a frame of the key columns (distinct rows) and returns a frame with one row for each of them, in
    the same order, that has the columns ``fields``. It must depend on nothing but its row: batches are cut anywhere,
    and a combination seen before is answered from memory. Rows for which ``where`` is not true are not asked about
    and have null fields. RuntimeError if ``resolve`` returns another number of rows.
    """
    remembered = _Remembered(resolve, list(keys), dict(fields))
    asked = pl.lit(True) if where is None else where
    return pl.struct([*[e.alias(name) for name, e in keys.items()], asked.alias(_ASKED)]).map_batches(
        remembered.spread, return_dtype=pl.Struct(dict(fields)), is_elementwise=True
    )


def one_of(text: pl.Expr, *words: str) -> pl.Expr:
    """True where a text is one of a few words, null where it is null; a fifth of ``is_in``'s time."""
    return pl.any_horizontal(*[text == word for word in words])


def first_word(cases: Sequence[tuple[pl.Expr, str | None]], rest: str | None = None) -> pl.Expr:
    """The word of the first condition that holds, else ``rest``. Chosen as numbers: a chain of choices among texts costs
    twice as much with five words, and more with more. The words are put in batch by batch, see ``translated``.
    """
    words = list(dict.fromkeys([word for _, word in cases if word is not None] + ([] if rest is None else [rest])))
    number = {word: pl.lit(place, pl.UInt8) for place, word in enumerate(words)} | {None: pl.lit(None, pl.UInt8)}
    chosen: pl.Expr = number[rest]
    for condition, word in reversed(cases):
        chosen = pl.when(condition).then(number[word]).otherwise(chosen)
    named = pl.Series(words, dtype=pl.String)
    return chosen.map_batches(named.gather, return_dtype=pl.String, is_elementwise=True)


def translated(text: pl.Expr, table: Mapping[str, str]) -> pl.Expr:
    """Each text as ``table`` has it, null where it has none.

    What ``replace_strict`` does, batch by batch: as an expression of its own the streaming engine gives it the whole column
    at once, and holds every other column meanwhile (polars 2.1: 11 GB for ten million results instead of 1.5).
    """
    return text.map_batches(
        lambda batch: batch.replace_strict(dict(table), default=None, return_dtype=pl.String),
        return_dtype=pl.String,
        is_elementwise=True,
    )


class _Remembered:
    """Answers by key. Threads share it without a lock: each works on the frame it saw and publishes a whole new one;
    the worst that can happen is that an answer is worked out twice.
    """

    def __init__(
        self, resolve: Callable[[pl.DataFrame], pl.DataFrame], names: list[str], fields: dict[str, pl.DataType]
    ) -> None:
        self._resolve, self._names, self._fields = resolve, names, fields
        self._known = pl.DataFrame()

    def spread(self, batch: pl.Series) -> pl.Series:
        """The answer for every row of a batch of key structs."""
        rows = batch.struct.unnest()
        if rows.is_empty():
            return pl.Series(_ANSWER, [], dtype=pl.Struct(self._fields))
        asked = rows[_ASKED].fill_null(False)
        if asked.all():
            known, place = self._placed(rows.drop(_ASKED))
            return known[_ANSWER].gather(place)
        answer = pl.Series(_ANSWER, [None], dtype=pl.Struct(self._fields)).new_from_index(0, rows.height)
        if not asked.any():
            return answer
        known, place = self._placed(rows.filter(asked).drop(_ASKED))
        nowhere = pl.Series(_PLACE, [None], dtype=pl.get_index_type()).new_from_index(0, rows.height)
        return known[_ANSWER].gather(nowhere.scatter(asked.arg_true(), place))

    def _placed(self, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series]:
        """Answered keys and, for every row, the place of its own among them."""
        known = self._known
        if known.height:
            place = self._look_up(rows, known)
            lost = place.is_null()
            if not lost.any():
                return known, place
            fresh = self._worked_out(rows.filter(lost))
            # a full memory starts again with this batch
            known = pl.concat([known, fresh]) if known.height + fresh.height <= REMEMBERED else self._worked_out(rows)
        else:
            known = self._worked_out(rows)
        self._known = known
        return known, self._look_up(rows, known)

    def _look_up(self, rows: pl.DataFrame, known: pl.DataFrame) -> pl.Series:
        """The place of every row among the ``known`` keys; null where it is not there."""
        found, varying = known.select(self._names).with_row_index(_PLACE), []
        # a key that is one value throughout the batch, as an absent column's null, need not be joined by
        for name in self._names:
            first = rows[name][0]
            if rows[name][-1] == first and rows[name].eq_missing(pl.Series([first], dtype=rows[name].dtype)).all():
                found = found.filter(pl.col(name).eq_missing(pl.lit(first, dtype=rows[name].dtype)))
            else:
                varying.append(name)
        if not varying:
            place = found[_PLACE].item() if found.height else None
            return pl.Series(_PLACE, [place], dtype=pl.get_index_type()).new_from_index(0, rows.height)
        return rows.join(found, on=varying, how="left", nulls_equal=True, maintain_order="left")[_PLACE]

    def _worked_out(self, rows: pl.DataFrame) -> pl.DataFrame:
        distinct = rows.unique(maintain_order=False)
        answer = self._resolve(distinct).select([pl.col(n).cast(t) for n, t in self._fields.items()])
        if answer.height != distinct.height:
            raise RuntimeError(f"{self._resolve!r} made {answer.height} rows of {distinct.height}")
        return distinct.with_columns(answer.to_struct(_ANSWER))
