"""Tests of the assets, over real runs."""
