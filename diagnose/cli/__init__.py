"""The face: one module for each family of commands."""
