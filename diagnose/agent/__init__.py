"""The shell around the mind: it owns the order of things, and nothing else."""
