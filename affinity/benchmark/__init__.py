"""`affinity bench`: what nodes are worth on this server, by measurement; and whether binding pays for a command."""
