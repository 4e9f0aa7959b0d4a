"""Tests; the tree mirrors both packages."""
