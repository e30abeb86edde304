"""Where tables live: Delta tables by layer, bronze history, the IO manager, the DuckDB catalogue.

Not here: what the columns mean (``contracts``), how values are computed (``laboratory``).
"""
