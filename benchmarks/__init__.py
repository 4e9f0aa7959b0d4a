"""Every speed claim, as a command that prints figures of two sides measured in one run."""
