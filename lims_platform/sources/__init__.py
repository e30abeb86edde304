"""Where data comes from: SQL databases and files, named by a sources.yaml.

In: a table and a window of days (or keys). Out: a raw polars frame in the contract's columns with times in UTC.
Not here: pseudonyms (``privacy``), history and versions (``lakehouse``), what a value means (``laboratory``).
"""
