"""Rotation of the pseudonym key: the next key, stored pseudonyms under it, the re-mapping that is kept.

Here: key files and pseudonyms in frames. Not here: which tables there are and their digests (``assets.rotate``).

Three states, told by files alone, so that a kill at any moment leaves one of them: no ``.next`` file (nothing under way);
``.next`` there (tables are being rotated, the door is shut); ``.next`` moved over the key file (done). A pseudonym carries
its key's id, so a table half done is finished by doing it again.
"""

from __future__ import annotations

import os
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import polars as pl

from lims_platform.privacy.pseudonyms import KeyFileError, Pseudonymiser, _write_new, load_pseudonymiser, next_key_path

_HASH = "[0-9a-f]{32}"


def begin(key_path: Path, environment: Literal["demo", "production"]) -> Pseudonymiser:
    """Start a rotation, or take up the one that was interrupted; returns the pseudonymiser with the new key in force."""
    following = next_key_path(key_path)
    if not following.exists():
        load_pseudonymiser(key_path, environment)  # a key file with a fault is not built upon
        stamp = datetime.now(UTC).date()
        _write_new(following, f"{key_path.read_text().rstrip()}\n# in force since {stamp}\n{secrets.token_hex(32)}\n")
    return load_pseudonymiser(following, environment)


def finish(key_path: Path) -> None:
    """Put the new key in force, atomically."""
    next_key_path(key_path).replace(key_path)
    folder = os.open(key_path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def pseudonyms_in(frame: pl.DataFrame, key_id: str) -> pl.Series:
    """Distinct pseudonyms of one key anywhere in the text columns of a frame."""
    found = [
        _holding(frame[name], key_id).str.extract_all(f"{key_id}:{_HASH}").explode().drop_nulls().alias("old")
        for name, dtype in frame.schema.items()
        if dtype == pl.String
    ]
    return pl.concat(found).unique() if found else pl.Series("old", [], dtype=pl.String)


def _holding(texts: pl.Series, key_id: str) -> pl.Series:
    """Distinct texts in which pseudonyms of a key stand; a plain search first, most columns hold none."""
    return texts.filter(texts.str.contains(f"{key_id}:", literal=True)).unique()


def mapping(old: pl.Series, pseudonymiser: Pseudonymiser) -> pl.DataFrame:
    """Columns old, new: pseudonyms of the key before and of the key in force."""
    return pl.DataFrame({"old": old, "new": pseudonymiser.rotate(old)})


def rotated(frame: pl.DataFrame, pseudonymiser: Pseudonymiser) -> pl.DataFrame:
    """The frame with every pseudonym of the key before, alone or inside a sentence, under the key in force."""
    before = pseudonymiser.key_ids[-2]
    old = pseudonyms_in(frame, before)
    if old.is_empty():
        return frame
    pairs = mapping(old, pseudonymiser)
    texts = [name for name, dtype in frame.schema.items() if dtype == pl.String]
    columns = []
    for name in texts:
        touched = _holding(frame[name], before).alias("text").to_frame()
        if touched.is_empty():
            continue
        table = touched.with_columns(clean=pl.col("text").str.replace_many(pairs["old"].implode(), pairs["new"].implode()))
        joined = frame[name].alias("text").to_frame().join(table, on="text", how="left", maintain_order="left")
        columns.append(joined.select(pl.coalesce("clean", "text").alias(name)).to_series())
    return frame.with_columns(columns)


def remember(key_path: Path, pairs: pl.DataFrame, key_id: str) -> Path:
    """Keep the re-mapping beside the key, mode 0600: it links what left the house under the old key to what is stored now.

    Pairs of an interrupted rotation are kept. Raises KeyFileError where the file there is damaged.
    """
    path = key_path.with_name(f"{key_path.name}.remap-{key_id}.parquet")
    if path.exists():
        try:
            pairs = pl.concat([pl.read_parquet(path), pairs]).unique("old")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise KeyFileError(f"re-mapping {path}: cannot be read ({error}); move it away and run again") from None
    beside = path.with_name(path.name + ".partial")
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        pairs.sort("old").write_parquet(file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    return path
