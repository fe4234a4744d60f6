"""Encoded pictures of every kind, and what Pillow alone makes of them."""

import importlib.util
import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

HAS_SIMPLEJPEG = importlib.util.find_spec("simplejpeg") is not None
needs_simplejpeg = pytest.mark.skipif(not HAS_SIMPLEJPEG, reason="simplejpeg is not installed")
DECODERS = ["pillow", pytest.param("simplejpeg", marks=needs_simplejpeg)]


def photo(width, height, seed=0, mode="RGB"):
    """Smooth noise and an edge, no two corners alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, len(mode)), dtype=np.uint8)
    image = Image.fromarray(noise.squeeze()).convert(mode)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    image.paste(0, (0, 0, width // 3, height // 4))
    return image


def file(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def deep():
    ramp = np.linspace(0, 65535, 60 * 50).reshape(50, 60).astype(np.uint16)
    return file(Image.fromarray(ramp), "PNG")


def palette():
    image = photo(60, 50).quantize(16)
    return file(image, "PNG", transparency=bytes([0, 128] + [255] * 14))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
FILES = {
    "jpeg": file(photo(300, 200), quality=88),
    "tall jpeg": file(photo(101, 255), quality=75),
    "one pixel": file(photo(1, 1)),
    "narrow": file(photo(3, 400)),
    "444": file(photo(123, 87), subsampling=0),
    "progressive": file(photo(200, 150), progressive=True),
    "grey jpeg": file(photo(120, 90, mode="L")),
    "cmyk jpeg": file(photo(120, 90).convert("CMYK")),
    "xmp orientation": file(photo(121, 90), xmp=XMP),
    "trailing bytes": file(photo(120, 90)) + b"more" * 50,
    "png": file(photo(77, 120), "PNG"),
    "grey png": file(photo(77, 120, mode="L"), "PNG"),
    "clear png": file(photo(77, 120, mode="RGBA"), "PNG"),
    "16-bit png": deep(),
    "clear palette": palette(),
    "lying png": file(photo(77, 120), "PNG", exif=turned(8)),
    "webp": file(photo(90, 120), "WEBP", quality=90),
    "clear webp": file(photo(90, 120, mode="RGBA"), "WEBP", lossless=True),
    "animated webp": file(
        photo(60, 60), "WEBP", save_all=True, append_images=[photo(60, 60, 1)], lossless=True
    ),
    **{f"orientation {n}": file(photo(121, 90), exif=turned(n)) for n in range(1, 9)},
}


def expected(encoded, size, mode="RGB"):
    """The image by Pillow's functions alone, uint8 [C, size, size]."""
    image = Image.open(io.BytesIO(encoded))
    if mode == "L":
        image.draft("L", None)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) / 65535 * 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(rgba, mask=rgba)
    image = image.convert(mode)
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(pixels.copy()).reshape(size, size, -1).permute(2, 0, 1)


def furthest(images, others):
    return int((images.int() - others.int()).abs().max())


def channel_means(image):
    """A transform: [3], float."""
    return torch.tensor(np.asarray(image, dtype=np.float32).mean((0, 1)))
