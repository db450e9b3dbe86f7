"""How a network is obtained."""
