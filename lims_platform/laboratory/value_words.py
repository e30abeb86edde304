"""The words of the value grammar: texts made plain, and looked up among codes, organisms and signs.

Here: what is looked up whole in value_codes.csv and comparator_words.csv. Not here: numbers (``number_text``), or which
reading of a text wins (``values``).
"""

from __future__ import annotations

import polars as pl

from lims_platform.contracts.reference import Reference
from lims_platform.laboratory.value_patterns import FLAG, POWERS, SHAPES, TOO_LONG, escape

_SPECIMEN_WORDS = (
    r"(?: ?[-,(]? ?(?:RNA|DNA|PCR|NAAT?|ANTIGEN|AG|ANTIBODY|AB|VIRUS|BY PCR|BY NAAT?|BY RT-PCR|RT-PCR|RESULT)\)?)*"
)


def made_plain(text: pl.Expr) -> pl.Expr:
    """A text with other shapes of its characters, spaces, minus signs, quotes and accents made plain; case is kept."""
    return (
        text.str.replace_many(SHAPES)
        .str.replace_many(POWERS, leftmost=True)
        .str.replace_all(r"[\s\u00a0\u2000-\u200b\u202f\u205f\u2060\u3000\ufeff\x00-\x1f]+", " ")
        .str.strip_chars().str.replace(r'^=?"(.*)"$', "${1}").str.replace(r"^'(.*)'?$", "${1}").str.strip_chars()
        .str.replace_all(r"[−‐‑‒–—﹣]", "-")
        # a spreadsheet's "=5.2" says 5.2; "=<5" is a comparator
        .str.replace(r"^= ?([0-9.,+-])", "${1}")
        .str.normalize("NFD").str.replace_all(r"[\u0300-\u0337\u0339-\u036f]", "")
    )  # fmt: skip


def as_word(plain: pl.Expr) -> pl.Expr:
    """A plain text in the form in which words are compared: upper case, underscores as spaces."""
    return plain.str.replace_all("_", " ", literal=True).str.strip_chars().str.to_uppercase()


class Words:
    """The word lists of one state of the reference tables. Raises ValueError where a word has two meanings."""

    def __init__(self, reference: Reference) -> None:
        folded = as_word(made_plain(pl.col("text")))
        codes = reference.value_codes.with_columns(
            folded=pl.when(folded == "").then(pl.col("text").str.to_uppercase()).otherwise(folded)
        ).unique(["folded", "match", "kind", "code"], maintain_order=True)
        twice = codes.filter(pl.struct("folded", "match").is_duplicated())
        if twice.height:
            raise ValueError(f"value_codes: {twice['text'][0]!r} has two meanings")
        self._exact = codes.filter(pl.col("match") == "exact").select(word="folded", kind="kind", code="code")
        #: Texts that are a code as a whole, whatever else they could be.
        self.whole = self._exact["word"].implode()
        self._targets = codes.filter(pl.col("match") == "target").select(word="folded", target="code")
        contains = [escape(w) for w in codes.filter(pl.col("match") == "contains")["folded"].to_list()]
        self.contains = r"(?i)\b(?:" + "|".join(contains) + ")" if contains else r"$^"
        behind = [escape(w) for w in codes.filter(pl.col("match") == "behind")["folded"].to_list()]
        #: A remark behind a number that leaves it as it is ("5.2 corrected").
        self.remark = r"(?i)[ ,;:(\[]*\b(?:" + "|".join(behind) + r")[)\].]*$" if behind else r"$^"
        signs = reference.comparator_words.with_columns(
            folded=made_plain(pl.col("text")).str.to_uppercase()
        ).sort(pl.col("folded").str.len_chars(), "folded", descending=True)  # fmt: skip
        #: Sign or word in front of a number, or behind it ("5 or less"), to the comparator; the longest first.
        self.before: dict[str, str] = dict(signs.filter(pl.col("place") == "before").select("folded", "comparator").rows())
        self.after: dict[str, str] = dict(signs.filter(pl.col("place") == "after").select("folded", "comparator").rows())

    def cleaned(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds clean (the text made plain; null where it was too long), word and bare (for look-ups)."""
        frame = frame.with_columns(pl.when(pl.col("text") != TOO_LONG).then(made_plain(pl.col("text"))).alias("clean"))
        word = as_word(pl.col("clean"))
        bare = word.str.strip_chars_end(" .,;:!*").str.replace(r"^\((.*[^+)])\)$", "${1}")
        return frame.with_columns(word.alias("word"), bare.alias("bare")).with_columns(
            pl.when(pl.col("bare") == "").then("word").otherwise("bare").alias("bare")
        )

    def lookup(self, frame: pl.DataFrame, column: str, prefix: str) -> pl.DataFrame:
        """Adds <prefix>_kind and <prefix>_code of an exact word in ``column``."""
        words = self._exact.rename({"word": column, "kind": f"{prefix}_kind", "code": f"{prefix}_code"})
        return frame.join(words, on=column, how="left", maintain_order="left")

    def with_codes(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds the code of the whole text, of its head ("NEGATIVE (<0.9)") and beside a named organism."""
        frame = self.lookup(frame, "word", "word")
        frame = self.lookup(frame, "bare", "bare")
        split = pl.col("clean").str.extract_groups(r"^([^0-9<>≤≥]+?)[ ,:;=(\[-]+([<>≤≥=]*[ 0-9.,][^)\]]*)[)\]]?$")
        head = as_word(split.struct.field("1"))
        frame = frame.with_columns(
            head.str.replace(r"[ ,;:]+TIT(?:ER|RE)(?: IS| OF)?$", "").str.strip_chars(" .,;:").alias("head"),
            split.struct.field("2").str.strip_chars().alias("rest"),
        )
        frame = self.lookup(frame, "head", "head")
        # "HIGH 5.2" is a flagged number, "NEGATIVE 0.3" a coded result with its index
        flag = pl.col("head").str.contains(rf"(?i)^{FLAG}$")
        headed = (pl.col("head_kind") == "coded") & pl.col("word_kind").is_null() & ~flag
        frame = frame.with_columns(
            pl.when(headed).then("rest").otherwise("clean").alias("body"),
            pl.when(headed).then("head_code").alias("head_code"),
        )
        return self._with_targets(frame)

    def _with_targets(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Adds target and target_code: an organism of the list beside a code of the list, and nothing else in the
        text.
        """
        names = "|".join(escape(w) for w in self._targets.sort(pl.col("word").str.len_chars(), descending=True)["word"])
        before = pl.col("bare").str.extract_groups(
            rf"^(?P<target>{names}){_SPECIMEN_WORDS}(?: IS| WAS)?[ ,:;=-]+(?P<code>.+)$"
        )
        after = pl.col("bare").str.extract_groups(
            rf"^(?P<code>.+?)(?: FOR |[ ,:;-]+|\s*\()(?P<target>{names}){_SPECIMEN_WORDS}\)?$"
        )
        frame = frame.with_columns(before.alias("before"), after.alias("after"))
        for side in ("before", "after"):
            frame = frame.with_columns(
                pl.col(side).struct.field("code").str.strip_chars(" .()").alias(f"{side}_word"),
                pl.col(side).struct.field("target").alias(f"{side}_name"),
            )
            frame = self.lookup(frame, f"{side}_word", side)
            frame = frame.join(
                self._targets.rename({"word": f"{side}_name", "target": f"{side}_target"}), on=f"{side}_name", how="left",
                maintain_order="left",
            )  # fmt: skip
        ok_before, ok_after = pl.col("before_kind") == "coded", pl.col("after_kind") == "coded"
        return frame.with_columns(
            pl.when(ok_before).then("before_target").when(ok_after).then("after_target").alias("target"),
            pl.when(ok_before).then("before_code").when(ok_after).then("after_code").alias("target_code"),
        )
