"""How much memory a server takes, and the smallest change that fits. Pure."""
