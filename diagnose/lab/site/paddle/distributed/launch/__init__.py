"""Starts one process a GPU and stops all when one fails: a stand-in for Paddle's launcher."""
