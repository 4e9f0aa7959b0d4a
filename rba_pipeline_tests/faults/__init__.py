"""Faults that must be survived, by their numbers."""
