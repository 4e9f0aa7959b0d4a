"""Tests of what the benchmarks compute, and that each of them runs."""
