"""Decoding images: those that were chosen, in threads, to the size that a model takes.

``decode_images`` is ``DecodeImages``, ``decoders`` the one function from bytes to pixels, with
Pillow as its specification, ``squares`` resizes.
"""

from jest_loader.adapters.images.decode_images import DecodeImages

__all__ = ["DecodeImages"]
