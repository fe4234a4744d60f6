"""Decodes the images that were chosen, in threads, to the size that a model takes.

::

    decode_images   DecodeImages: a batch's column of encoded images to one tensor
    squares         cuts centre squares and resizes them
    decoders        one encoded image to pixels, with Pillow as the specification
"""

from jest_loader.adapters.images.decode_images import DecodeImages

__all__ = ["DecodeImages"]
