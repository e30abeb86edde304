"""Many identifiers in many texts at once: Aho-Corasick in Rust, then word boundaries, vectorised.

Here: what counts as an occurrence, buffering so that the automaton is built rarely. Not here: file formats (``openers``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

#: Shorter identifiers, and numbers of just this length, are ordinary words, years and parts of UUIDs: counted, not searched.
SHORTEST = 4
#: Texts are searched together in portions of about this many bytes.
_PORTION = 48 * 1024 * 1024
#: Bytes of a file are cut into pieces of this size, so that the exact step handles small ones.
_PIECE = 256 * 1024
#: Every byte a text cannot hold becomes one control character: offsets stay, and polars gets valid text.
_ASCII = bytes(b if b < 128 else 1 for b in range(256))
_HITS = {"path": pl.String(), "where": pl.String(), "domain": pl.String(), "count": pl.Int64()}


def _short(text: pl.Expr) -> pl.Expr:
    """Identifiers that turn up by chance in bytes that are no text: five characters, or six digits."""
    return (text.str.len_bytes() < 6) | ((text.str.len_bytes() < 7) & text.str.contains(r"^[0-9]+$"))


@dataclass
class _Buffer:
    """Texts waiting to be searched; ``lead`` is how much of the front is only context."""

    owners: list[pl.Series] = field(default_factory=list)
    texts: list[pl.Series] = field(default_factory=list)
    leads: list[pl.Series] = field(default_factory=list)
    tails: list[pl.Series] = field(default_factory=list)
    size: int = 0


class Search:
    """Collects texts and bytes with their place, and counts identifiers in them.

    An occurrence is a whole word, upper and lower case alike: no letter or digit touches it; for an identifier of digits
    alone no decimal point joins it to more digits either. Bytes are searched for the UTF-8 and the UTF-16 form.
    """

    def __init__(self, identifiers: Mapping[str, Iterable[str]]) -> None:
        frames = [
            pl.DataFrame({"id": pl.Series(sorted({v.strip() for v in values}), dtype=pl.String)}).with_columns(
                domain=pl.lit(domain)
            )
            for domain, values in identifiers.items()
        ]
        every = pl.concat([pl.DataFrame(schema={"id": pl.String(), "domain": pl.String()}), *frames])
        every = every.filter(pl.col("id") != "")
        length = pl.col("id").str.len_chars()
        usable = every.filter((length > SHORTEST) | ((length == SHORTEST) & ~pl.col("id").str.contains(r"^[0-9]+$")))
        self.searched = usable.height
        self.unsearchable = every.height - usable.height
        self._patterns = self._forms(usable)
        self._longest = int(self._patterns["form"].str.len_bytes().max() or 0)  # type: ignore[arg-type]
        self._numbers = usable.filter(pl.col("id").str.contains(r"^[0-9]+$") & ~_short(pl.col("id")))["id"]
        self._places: list[tuple[str, str]] = []
        self._buffers = {"text": _Buffer(), "bytes": _Buffer()}
        self._found: list[pl.DataFrame] = []

    @staticmethod
    def _forms(usable: pl.DataFrame) -> pl.DataFrame:
        """Each identifier as it may lie in a text or in bytes: form, width of a character, domain."""
        plain = usable.select(
            form="id", key=pl.col("id").str.to_lowercase(), width=pl.lit(1), short=_short(pl.col("id")), domain="domain"
        )
        ids = usable["id"].to_list()
        # without its last byte a little-endian text also matches the big-endian one
        wide = [i.encode("utf-16-le")[:-1].translate(_ASCII).decode("ascii") for i in ids]
        raw = [i.encode().translate(_ASCII).decode("ascii") for i in ids]
        extra = [
            usable.select(form=pl.Series(forms, dtype=pl.String), width=pl.lit(width), domain="domain", id="id")
            for forms, width in ((wide, 2), (raw, 1))
        ]
        others = pl.concat(extra).select(
            "form", key=pl.col("form").str.to_lowercase(), width="width", short=_short(pl.col("id")), domain="domain"
        )
        return pl.concat([plain, others]).unique(["form", "domain"], maintain_order=True)

    def number_cells(self, values: pl.Series) -> pl.Series:
        """The integers among the column's that are identifiers, as text; whole numbers below seven digits prove nothing."""
        if self._numbers.is_empty():
            return pl.Series([], dtype=pl.String)
        text = values.drop_nulls().unique().cast(pl.String)
        return text.filter(text.is_in(self._numbers.implode()))

    def texts(self, path: str, where: str, values: pl.Series) -> None:
        """Search decoded texts, each on its own; null and repeated ones cost nothing."""
        values = values.drop_nulls().unique()
        if values.len():
            zeros = pl.zeros(values.len(), pl.Int64, eager=True)
            self._add("text", path, where, values, zeros, values.str.len_bytes().cast(pl.Int64))

    def block(self, path: str, where: str, data: bytes, *, lead: int, last: bool, texty: bool) -> int:
        """Search a block of a file's bytes.

        Args:
            path: the file, for the report.
            where: the part of it.
            data: bytes, of which the first ``lead`` were the end of the block before and are only context.
            lead: at most ``overlap``.
            last: no block follows.
            texty: the file reads as text, so short identifiers are looked for too.

        Returns:
            How many bytes at the end must lead the next block.
        """
        text = data.translate(_ASCII).decode("ascii")
        keep = 0 if last else min(self.overlap, len(text))
        end = len(text) - keep // 2 if not last else len(text)
        start = lead - lead // 2 if lead else 0
        pieces = list(range(start, end, _PIECE))
        near = self.overlap // 2
        begins = [max(0, s - near) for s in pieces]
        cut = [text[b : min(s + _PIECE, end) + near] for s, b in zip(pieces, begins, strict=True)]
        leads = pl.Series([s - b for s, b in zip(pieces, begins, strict=True)], dtype=pl.Int64)
        tails = pl.Series([min(s + _PIECE, end) - b for s, b in zip(pieces, begins, strict=True)], dtype=pl.Int64)
        self._add("text" if texty else "bytes", path, where, pl.Series(cut, dtype=pl.String), leads, tails)
        return keep

    @property
    def overlap(self) -> int:
        """Bytes two neighbouring blocks share: an identifier and its neighbours fit into half of it."""
        return 2 * (self._longest + 8)

    def _add(self, kind: str, path: str, where: str, texts: pl.Series, leads: pl.Series, tails: pl.Series) -> None:
        if self._places[-1:] != [(path, where)]:
            self._places.append((path, where))
        buffer = self._buffers[kind]
        buffer.owners.append(pl.repeat(len(self._places) - 1, texts.len(), dtype=pl.UInt32, eager=True))
        buffer.texts.append(texts.alias("text"))
        buffer.leads.append(leads)
        buffer.tails.append(tails)
        buffer.size += int(texts.str.len_bytes().sum()) + 64
        if buffer.size > _PORTION:
            self._flush(kind)

    def _flush(self, kind: str) -> None:
        buffer, self._buffers[kind] = self._buffers[kind], _Buffer()
        # a text holds no zero byte, so no wide form; other bytes hold short identifiers by chance
        fits = pl.col("width") == 1 if kind == "text" else ~pl.col("short")
        patterns = self._patterns.filter(fits)
        if not buffer.texts or patterns.is_empty():
            return
        forms = patterns["form"].unique().implode()
        frame = pl.DataFrame(
            {
                "owner": pl.concat(buffer.owners),
                "text": pl.concat(buffer.texts),
                "lead": pl.concat(buffer.leads),
                "tail": pl.concat(buffer.tails),
            }
        ).filter(pl.col("text").str.contains_any(forms, ascii_case_insensitive=True))
        if frame.height:
            self._found.append(_occurrences(frame, forms, patterns))

    def hits(self) -> pl.DataFrame:
        """Everything found so far: path, where, domain, count. Never the identifier itself."""
        for kind in self._buffers:
            self._flush(kind)
        if not self._found:
            return pl.DataFrame(schema=_HITS)
        counted = pl.concat(self._found).group_by("owner", "domain").agg(pl.col("count").sum())
        places = pl.DataFrame(self._places, schema={"path": pl.String, "where": pl.String}, orient="row")
        placed = counted.join(places.with_row_index("owner"), on="owner")
        return placed.group_by("path", "where", "domain").agg(pl.col("count").sum()).select(list(_HITS)).sort(list(_HITS))


def _occurrences(frame: pl.DataFrame, forms: pl.Series, patterns: pl.DataFrame) -> pl.DataFrame:
    """Whole-word matches per owner and domain, of texts known to hold some form."""
    found = frame.with_columns(
        at=pl.col("text").str.find_many(forms, ascii_case_insensitive=True, overlapping=True).cast(pl.List(pl.Int64)),
        key=pl.col("text").str.extract_many(forms, ascii_case_insensitive=True, overlapping=True),
    ).explode("at", "key")
    found = found.filter((pl.col("at") >= pl.col("lead")) & (pl.col("at") < pl.col("tail")))
    found = found.with_columns(pl.col("key").str.to_lowercase(), length=pl.col("key").str.len_bytes().cast(pl.Int64))
    found = found.join(patterns.select("key", "width", "domain").unique(), on="key")
    data, at, end, step = pl.col("text").cast(pl.Binary), pl.col("at"), pl.col("at") + pl.col("length"), pl.col("width") - 1

    def byte(offset: pl.Expr) -> pl.Expr:
        # outside the text there is nothing; a byte above 127 belongs to a letter only in a decoded text
        inside = pl.when(offset >= 0).then(data.bin.slice(offset.clip(lower_bound=0), 1))
        return inside.bin.encode("hex").fill_null("")

    def word(offset: pl.Expr) -> pl.Expr:
        return byte(offset).str.contains("^(3[0-9]|[46][1-9a-f]|[57][0-9a])$")

    def digit(offset: pl.Expr) -> pl.Expr:
        return byte(offset).str.contains("^3[0-9]$")

    # in the wide form the neighbour lies one zero byte away; without that byte it is no text of that kind
    before, after = at - 1 - step, end + step
    wide = pl.col("width") == 2
    gap_before, gap_after = ~wide | (byte(at - 1) == "00"), ~wide | (byte(end) == "00")
    joined = (word(before) & gap_before) | (word(after) & gap_after)
    number = pl.col("key").str.contains(r"^[0-9\x00]+$")
    point_before = (byte(before) == "2e") & digit(before - 1 - step)
    point_after = (byte(after) == "2e") & digit(after + 1 + step)
    whole = ~joined & ~(number & (point_before | point_after))
    return found.filter(whole).group_by("owner", "domain").agg(count=pl.len().cast(pl.Int64))
