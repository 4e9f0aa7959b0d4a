"""Proof that the fault suite bites: a case fails once the defence that it is for is off."""
