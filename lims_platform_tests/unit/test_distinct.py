"""Work done once per distinct value: the answer of every row is its own key's, however batches are cut."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lims_platform.laboratory import distinct
from lims_platform.laboratory.distinct import per_distinct

KEY = st.tuples(
    st.sampled_from(["a", "b", "", None]), st.sampled_from([0.0, -1.5, None]), st.sampled_from([True, False, None])
)
FIELDS: dict[str, pl.DataType] = {"said": pl.String()}


def _said(text: str | None, number: float | None) -> str:
    return f"{text}|{number}"


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(KEY, max_size=12), min_size=1, max_size=5), st.integers(1, 4))
def test_every_row_gets_the_answer_of_its_key(
    batches: list[list[tuple[str | None, float | None, bool | None]]], room: int
) -> None:
    asked: list[int] = []

    def resolve(keys: pl.DataFrame) -> pl.DataFrame:
        asked.append(keys.height)
        assert keys.is_unique().all()
        return pl.DataFrame({"said": [_said(*row) for row in keys.select("text", "number").rows()]}, schema=FIELDS)

    kept, distinct.REMEMBERED = distinct.REMEMBERED, room
    try:
        answer = per_distinct({"text": pl.col("t"), "number": pl.col("n")}, resolve, FIELDS, where=pl.col("w"))
        for batch in batches:
            frame = pl.DataFrame(batch, schema={"t": pl.String, "n": pl.Float64, "w": pl.Boolean}, orient="row")
            found = frame.select(answer.struct.field("said"))["said"].to_list()
            assert found == [_said(t, n) if w else None for t, n, w in batch]
    finally:
        distinct.REMEMBERED = kept


def test_a_key_seen_before_is_not_asked_about_again() -> None:
    asked: list[str] = []

    def resolve(keys: pl.DataFrame) -> pl.DataFrame:
        asked.extend(keys["text"].to_list())
        return keys.select(said="text")

    answer = per_distinct({"text": pl.col("t")}, resolve, FIELDS)
    for texts in (["x", "y", "x"], ["y", "y"], ["z", "x"]):
        assert pl.DataFrame({"t": texts}).select(answer.struct.field("said"))["said"].to_list() == texts
    assert sorted(asked) == ["x", "y", "z"]


def test_an_answer_of_another_length_is_refused() -> None:
    answer = per_distinct({"text": pl.col("t")}, lambda keys: keys.head(0).select(said="text"), FIELDS)
    with pytest.raises(RuntimeError, match="made 0 rows of 2"):
        pl.DataFrame({"t": ["x", "y"]}).select(answer)
