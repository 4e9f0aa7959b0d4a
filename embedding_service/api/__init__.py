"""HTTP on the outside, engine calls on the inside; no torch and no batching here."""
