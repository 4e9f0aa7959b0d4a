"""Recipes: read, call core, hand over, report. No SQL, no HTTP, no loop over rows."""
