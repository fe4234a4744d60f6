"""The trainer's options: frozen dataclasses, parsed by tyro and written into each checkpoint."""
