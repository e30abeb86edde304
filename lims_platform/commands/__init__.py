"""Commands of ``python -m lims_platform`` by subject. Here: arguments, printing, exit codes. Not here: the work itself."""
