"""The leak scan: every raw identifier looked for in every byte the platform wrote.

Here: which files, and the report. Not here: matching (``search``), formats (``openers``).

Run it in a process of its own: closing a file another connection of the same process has locked would drop that lock.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from lims_platform.privacy.openers import search_database, search_stream
from lims_platform.privacy.search import Search


@dataclass(frozen=True)
class LeakReport:
    """What was looked for, where, and what was found; never an identifier.

    ``identifiers`` were searched; ``unsearchable`` have fewer than four
    characters (five where all are digits) and were not. ``bytes_read`` counts what
    was unpacked too. ``hits``: path, where, domain, count. ``unreadable``: folders that could not be listed and files
    that could not be opened as what they claim to be, with the reason; their plain bytes were searched all the same where
    they could be read.
    """

    identifiers: int
    unsearchable: int
    files: int
    bytes_read: int
    hits: pl.DataFrame
    unreadable: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """No hit, and nothing left unread."""
        return self.hits.is_empty() and not self.unreadable


def _walk(root: Path, exclude: Sequence[Path], fail: Callable[[OSError], None]) -> Iterator[Path]:
    """Every regular file below ``root`` (or itself), in order, links to directories not followed; ``fail`` is told of
    folders that cannot be listed.
    """
    left_out = {p.resolve() for p in exclude}
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise FileNotFoundError(f"nothing to scan: {root} is neither a folder nor a file")

    for folder, folders, names in os.walk(root, onerror=fail):
        here = Path(folder)
        folders[:] = sorted(f for f in folders if (here / f).resolve() not in left_out)
        for name in sorted(names):
            path = here / name
            if path.is_file() and path.resolve() not in left_out:
                yield path


def scan(root: Path, identifiers: Mapping[str, Iterable[str]], exclude: Sequence[Path] = ()) -> LeakReport:
    """Look for identifiers in every file below ``root``, in its name, its bytes, and what a format hides from bytes.

    Opened: Parquet (row groups; footers lie in the plain bytes), Arrow, zip and xlsx, gzip, bzip2, xz, zstd, zlib, SQLite
    and DuckDB tables; one inside another four deep. Whole words only, upper and lower case alike. Identifiers shorter than
    six characters, or of fewer than seven digits alone, are searched in decoded text columns and text files only: in other
    bytes they would turn up by chance. Text encrypted or drawn (a picture) is out of reach.

    Args:
        root: folder or file.
        identifiers: domain to raw identifiers.
        exclude: files and folders left out, such as the laboratory's own database.
    """
    search = Search(identifiers)
    files = read = 0
    unreadable: list[str] = []

    def note(shown: str, error: Exception) -> None:
        words = str(error.strerror if isinstance(error, OSError) and error.strerror else error)
        unreadable.append(f"{shown}: {type(error).__name__}: {' '.join(words.split())[:200]}")

    def unlisted(error: OSError) -> None:
        note(str(Path(error.filename).relative_to(root)), error)

    for path in _walk(root, exclude, unlisted):
        shown = str(path.relative_to(root)) if path != root else path.name
        search.texts(shown, "name", pl.Series([shown]))
        files += 1
        try:
            with path.open("rb") as stream:
                read += search_stream(search, shown, "bytes", stream)
            search_database(search, shown, path)
        except Exception as error:  # damaged files raise anything; none may end the scan, none may pass unseen
            if path.exists():  # a run under way replaces files; what is gone holds nothing any more
                note(shown, error)
    return LeakReport(search.searched, search.unsearchable, files, read, search.hits(), tuple(unreadable))
