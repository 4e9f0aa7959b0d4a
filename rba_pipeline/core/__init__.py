"""Arithmetic: values and pure functions. No Dagster, no I/O, no clock."""
