"""Neighbours: whatever can fail because the outside world did. No recipes, no arithmetic."""
