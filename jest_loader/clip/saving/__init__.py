"""Checkpoints: ``checkpoint`` is the file's content, ``checkpoint_folder`` which files a run keeps.

A change of what a checkpoint holds needs a new version number there.
"""
