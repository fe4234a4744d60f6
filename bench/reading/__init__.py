"""How fast undecoded candidates are read, next to other loaders."""
