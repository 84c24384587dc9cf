"""The mind: pure functions from observations to decisions."""
