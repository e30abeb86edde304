"""A laboratory that does not exist: fills a LIMS database, plants faults, and keeps the truth in a folder of its own.

No pipeline code imports this room or reads its truth; only the demo set-up, evaluations and tests do.
"""
