"""The senses: code that observes a server and its host, and judges nothing."""
