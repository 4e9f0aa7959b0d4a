"""The schema, one numbered SQL file per step; a file that was released never changes."""
