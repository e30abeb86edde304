"""The science, pure: values, units, terminology, device health, QC rules, outbreaks, drift.

Frames and arrays in, frames and arrays out. No files, no clock, no Dagster: a statistician can read this room alone.
"""
