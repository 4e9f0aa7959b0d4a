"""A real backfill of a real corpus, whose processes are killed, and an account of what is there."""
