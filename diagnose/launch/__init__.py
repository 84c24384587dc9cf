"""How a server is launched: reading and changing commands, as values. Pure."""
