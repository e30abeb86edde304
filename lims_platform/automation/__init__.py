"""When and whether: jobs, schedules, sensors, conditions, asset checks, progress on the console, the event log's storage.

Not here: what an asset computes.
"""
