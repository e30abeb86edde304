"""Pseudonyms at the door, and the scan that proves no raw identifier went past it.

Not here: who may look, which tables exist, any Dagster.
"""
