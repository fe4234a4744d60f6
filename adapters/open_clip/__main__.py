"""``python -m jest_loader.adapters.open_clip``."""

from jest_loader.adapters.open_clip.command import main

main()
