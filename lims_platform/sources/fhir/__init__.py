"""FHIR R4 as a door into lab_results: Observation and DiagnosticReport in Bundles (JSON) and NDJSON files of a folder.

Here: JSON to resources (``documents``), resources to rows (``results``), the source. Not here: what a value means
(``laboratory``); which version of a result is current (``sources.versioned``).
"""
