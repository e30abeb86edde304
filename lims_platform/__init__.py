"""A data platform for clinical and environmental laboratories. See README.md; the rooms are described in their own docstrings."""
