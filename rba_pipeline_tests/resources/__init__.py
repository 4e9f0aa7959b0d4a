"""Tests of the neighbours."""
