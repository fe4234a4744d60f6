"""Thumbnails stored beside pictures: what they show, and that a scorer can read them."""

import io
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from jest_loader import ExampleScores, JestDataset, TopKSelector
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource
from jest_loader.adapters.zarr import ZarrSource
from jest_loader.pack import PackConfig, pack
from jest_loader.pack.records import SkipError
from jest_loader.pack.thumbnails import Thumbnails

SOURCES = {"mds": MdsSource, "zarr": ZarrSource}


def photo(seed, size=(120, 90), mode="RGB"):
    noise = np.random.default_rng(seed).integers(0, 256, (4, 5, len(mode)), dtype=np.uint8)
    return Image.fromarray(noise.squeeze()).convert(mode).resize(size, Image.Resampling.BICUBIC)


def file(image, kind="JPEG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.int32)


@pytest.mark.parametrize("size", [(120, 90), (90, 120), (16, 40)])
def test_a_thumbnail_is_the_centre_square_as_a_jpeg(size):
    image = photo(1, size)
    made = Thumbnails(24)(file(image, "PNG"))
    with Image.open(io.BytesIO(made)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (24, 24))
    expected = ImageOps.fit(image, (24, 24), Image.Resampling.BICUBIC)
    assert np.abs(pixels(made) - np.asarray(expected, np.int32)).mean() < 4


def test_a_thumbnail_stands_upright():
    image = photo(2)
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = image.transpose(Image.Transpose.ROTATE_90)
    made = [Thumbnails(24)(encoded) for encoded in (file(image), file(lying, exif=exif.tobytes()))]
    assert np.abs(pixels(made[0]) - pixels(made[1])).mean() < 4


def test_a_picture_that_cannot_be_decoded_has_none():
    with pytest.raises(SkipError, match="no readable JPEG"):
        Thumbnails(24)(file(photo(3))[:500])


@pytest.fixture
def config(tmp_path) -> PackConfig:
    folder = tmp_path / "photos"
    folder.mkdir()
    lines = ["file,caption"]
    for row in range(12):
        kind = ("JPEG", "PNG", "WEBP")[row % 3]
        (folder / f"{row}.{kind.lower()}").write_bytes(file(photo(row), kind))
        lines.append(f"{row}.{kind.lower()},picture {row}")
    captions = tmp_path / "captions.csv"
    captions.write_text("\n".join(lines))
    return PackConfig((folder,), tmp_path / "out", captions=captions, thumbnail=32)


@pytest.mark.parametrize("kind", list(SOURCES))
def test_a_scorer_sees_thumbnails_and_the_chosen_are_decoded_in_full(kind, config):
    pack(PackConfig(config.input, config.output, kind, config.captions, thumbnail=32))
    seen = DecodeImages("thumbnail", 32, out_column="small")

    class Brightness:
        def score(self, super_batch):
            return ExampleScores(seen(super_batch)["small"].float().mean((1, 2, 3)))

    source = SOURCES[kind](config.output, batch_size=12, shuffle=False)
    dataset = JestDataset(
        source,
        Brightness(),
        TopKSelector(),
        super_batch_size=12,
        sub_batch_size=3,
        materialize=DecodeImages("image", 64),
    )
    (batch,) = dataset
    brightness = [np.asarray(ImageOps.fit(photo(row), (32, 32))).mean() for row in range(12)]
    assert batch["sample_id"].tolist() == np.argsort(brightness)[::-1][:3].tolist()
    assert batch["image"].shape == (3, 3, 64, 64)


def test_thumbnails_are_what_decode_images_makes_of_the_pictures(config):
    """But for what JPEG loses."""
    pack(config)
    (batch,) = MdsSource(config.output, batch_size=12, shuffle=False)
    small, full = (DecodeImages(name, 32)(batch)[name].float() for name in ("thumbnail", "image"))
    assert (small - full).abs().mean() < 2
    assert torch.equal(small, DecodeImages("thumbnail", 32, decoder="pillow")(batch)["thumbnail"])


def test_tars_have_them_too(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, content in (("0.jpg", file(photo(0))), ("0.txt", b"first")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    pack(PackConfig((tmp_path / "a.tar",), tmp_path / "out", thumbnail=16))
    (batch,) = MdsSource(tmp_path / "out", batch_size=1, shuffle=False)
    assert pixels(batch["thumbnail"][0]).shape == (16, 16, 3)


def test_there_are_none_unless_asked_for(config):
    pack(PackConfig(config.input, config.output, captions=config.captions))
    (batch,) = MdsSource(config.output, batch_size=12, shuffle=False)
    assert "thumbnail" not in batch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thumbnail": 0}, "--thumbnail must be from 1 to 4096 pixels or None, got 0"),
        ({"thumbnail": 100_000}, "--thumbnail must be from 1 to 4096 pixels or None, got 100000"),
        ({"keep_columns": ("thumbnail",)}, "--keep-columns must differ from .*'thumbnail'"),
    ],
)
def test_options_that_do_not_fit(config, options, message):
    with pytest.raises(ValueError, match=message):
        pack(
            PackConfig(
                config.input,
                config.output,
                captions=config.captions,
                **{"thumbnail": 32, **options},
            )
        )
