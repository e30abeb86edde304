"""Who is told what: rules over tables, the life of an alert, messages, delivery.

Not here: science (``laboratory``), Dagster (``assets.alerts`` and ``automation.alerts`` call this room).
"""
