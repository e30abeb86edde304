"""A data platform for clinical and environmental laboratories. See README.md; each room's docstring says what is in it."""
