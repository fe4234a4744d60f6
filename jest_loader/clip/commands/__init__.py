"""The trainer's commands: the options of each, and a function that runs it.

``cache`` has two, to build a reference cache and to verify one; ``export`` writes a folder that
open_clip loads. ``jest_loader.cli`` calls them, and nothing else does.
"""
