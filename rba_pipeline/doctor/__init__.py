"""What ``rba-pipeline doctor`` looks at: it starts, changes and repairs nothing."""
