"""Find, name and cure what ails a FastDeploy server."""

__version__ = "0.1.0"
