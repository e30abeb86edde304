"""Dagster assets by layer, thin: an asset reads, calls one function, returns data and metadata.

Not here: arithmetic (``laboratory``, ``learning``), storage (``lakehouse``).
"""
