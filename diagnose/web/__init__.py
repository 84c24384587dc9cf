"""The daemon's door: an HTTP API on a socket in its state folder."""
