"""Decoded pixels against Pillow's own pipeline, by each decoder."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import decode
from tests.adapters.pictures import DECODERS, FILES, expected, needs_simplejpeg


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("size", [224, 31])
def test_every_kind_of_file_against_pillow(decoder, mode, size, num_threads):
    decode_images = DecodeImages("jpg", size, mode=mode, decoder=decoder, num_threads=num_threads)
    images = decode_images({"jpg": list(FILES.values())})["jpg"]
    assert images.dtype == torch.uint8
    assert images.shape == (len(FILES), len(mode), size, size)
    assert images.is_contiguous()
    for (name, encoded), image in zip(FILES.items(), images, strict=True):
        difference = (image.int() - expected(encoded, size, mode).int()).abs()
        # Both resize in fixed point, torch with 16 bits; it shows where images are enlarged.
        assert difference.max() <= (2 if size == 224 else 1), name
        assert difference.float().mean() < 0.1, name
    assert images.int().float().std() > 20


@needs_simplejpeg
@pytest.mark.parametrize("scale_to", [None, 100, 60, 30, 20])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoders_agree_to_the_bit(mode, scale_to):
    for name, encoded in FILES.items():
        fast = decode(encoded, mode, "simplejpeg", scale_to=scale_to).copy()
        plain = decode(encoded, mode, "pillow", scale_to=scale_to)
        np.testing.assert_array_equal(fast, plain, err_msg=name)


@needs_simplejpeg
def test_plain_jpegs_never_reach_pillow(monkeypatch):
    monkeypatch.setattr(Image, "open", None)
    # From small to large, in threads that have decoded nothing yet.
    names = ["one pixel", "grey jpeg", "trailing bytes", "progressive", "jpeg"]
    images = DecodeImages("jpg", 40, decoder="simplejpeg", num_threads=2)(
        {"jpg": [FILES[name] for name in names]}
    )
    assert images["jpg"].shape == (5, 3, 40, 40)


@needs_simplejpeg
def test_simplejpeg_is_the_default():
    assert DecodeImages("jpg").decoder == "simplejpeg"


def test_without_simplejpeg(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert DecodeImages("jpg").decoder == "pillow"
    with pytest.raises(ValueError, match="pip install simplejpeg"):
        DecodeImages("jpg", decoder="simplejpeg")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="pip install pillow"):
        DecodeImages("jpg")
