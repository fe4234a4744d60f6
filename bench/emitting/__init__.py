"""How many chosen examples are emitted a second, and when the first comes."""
