"""Decoded images against Pillow's own pipeline, bad images, threads and processes."""

import importlib.util
import io
import multiprocessing
import pickle
import random
import struct
import subprocess
import sys
import threading
import time
import warnings
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from jest_loader import JestDataset, SkipRowsError, UniformSelector
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import decode

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


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(
    ("scale_to", "shape"),
    [
        (None, (240, 321)),
        (121, (240, 321)),
        (120, (120, 161)),
        (61, (120, 161)),
        (60, (60, 81)),
        (30, (30, 41)),
        (2, (30, 41)),
    ],
)
def test_scaled_to_the_smallest_that_is_large_enough(decoder, scale_to, shape):
    pixels = decode(file(photo(321, 240)), "RGB", decoder, scale_to=scale_to)
    assert pixels.shape == (*shape, 3)


@pytest.mark.parametrize("decoder", DECODERS)
def test_fast_scaling_changes_pixels_little(decoder):
    batch = {"jpg": [file(photo(640, 480, seed), quality=90) for seed in range(4)]}
    full, scaled = (
        DecodeImages("jpg", 112, decoder=decoder, fast_scaling=fast)(batch)["jpg"].float()
        for fast in (False, True)
    )
    assert 0 < (full - scaled).abs().mean() < 2


def test_png_is_not_scaled():
    assert decode(file(photo(321, 240), "PNG"), "RGB", "pillow", scale_to=10).shape[0] == 240


@pytest.mark.parametrize("decoder", DECODERS)
def test_rows_keep_their_order_and_other_columns(decoder):
    rows = [file(photo(40 + 30 * (n % 7), 64, n)) for n in range(61)]
    batch = {"jpg": rows, "caption": [str(n) for n in range(61)]}
    one, many = (
        DecodeImages("jpg", 32, decoder=decoder, num_threads=n, out_column="image") for n in (1, 5)
    )
    result = many(batch)
    assert torch.equal(one(batch)["image"], result["image"])
    for row in (0, 17, 60):
        assert furthest(result["image"][row], expected(rows[row], 32)) <= 1
    assert result["jpg"] is rows
    assert result["caption"] is batch["caption"]
    assert set(batch) == {"jpg", "caption"}


def test_a_batch_stays_as_it_was_when_the_next_is_decoded():
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    first = decode_images({"jpg": [FILES["jpeg"]] * 4})["jpg"]
    kept = first.clone()
    decode_images({"jpg": [FILES["png"]] * 4})
    assert torch.equal(first, kept)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_all_kinds_of_bytes(kind):
    column = [kind(FILES["jpeg"]), kind(FILES["png"])]
    images = DecodeImages("jpg", 24)({"jpg": column})["jpg"]
    assert furthest(images[1], expected(FILES["png"], 24)) <= 1


def test_columns_may_be_tuples_object_arrays_or_empty():
    column = np.empty(2, dtype=object)
    column[:] = [FILES["jpeg"], FILES["png"]]
    for rows in (column, tuple(column)):
        assert DecodeImages("jpg", 24)({"jpg": rows})["jpg"].shape == (2, 3, 24, 24)
    assert DecodeImages("jpg", 24)({"jpg": []})["jpg"].shape == (0, 3, 24, 24)


def with_shorter_chunk(png):
    """Says of the pixels' chunk that it is shorter than it is."""
    start = png.index(b"IDAT") - 4
    length = int.from_bytes(png[start : start + 4])
    return png[:start] + (length - 64).to_bytes(4) + png[start + 4 :]


JPEG = FILES["jpeg"]
BAD = {
    "half": (JPEG[: len(JPEG) // 2], "truncated"),
    "half progressive": (FILES["progressive"][:2000], "truncated"),
    "without the last bytes": (JPEG[:-20], "truncated"),
    "head only": (JPEG[:300], "Truncated File Read"),
    "half png": (FILES["png"][: len(FILES["png"]) // 2], "truncated"),
    "chunk of another length": (with_shorter_chunk(FILES["png"]), "broken PNG file"),
    "half webp": (FILES["webp"][: len(FILES["webp"]) // 2], "decode"),
    "empty": (b"", "at least one byte"),
    "text": (b"no image at all", "read as JPEG, PNG, WEBP"),
    "another format": (file(photo(20, 20), "BMP"), "read as JPEG, PNG, WEBP"),
    "string": ("a caption", "must be bytes, got str"),
    "nothing": (None, "must be bytes, got NoneType"),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("fast_scaling", [False, True])
def test_bad_rows_are_named_together(decoder, num_threads, fast_scaling):
    column = []
    for encoded, _ in BAD.values():
        column += [FILES["jpeg"], encoded]
    decode_images = DecodeImages(
        "jpg", 40, decoder=decoder, num_threads=num_threads, fast_scaling=fast_scaling
    )
    with pytest.raises(SkipRowsError) as raised:
        decode_images({"jpg": column})
    reasons = raised.value.reasons
    assert list(reasons) == list(range(1, len(column), 2))
    for (name, (_, words)), reason in zip(BAD.items(), reasons.values(), strict=True):
        assert words in reason, name
    assert decode_images({"jpg": column[::2]})["jpg"].shape[0] == len(BAD)


@needs_simplejpeg
@pytest.mark.parametrize("name", ["jpeg", "progressive"])
def test_lost_data_before_an_end_marker_is_bad(name):
    """Pillow, OpenCV, torchvision and torchcodec all fill these with grey and return them."""
    cut = FILES[name][: len(FILES[name]) // 2] + b"\xff\xd9"
    with pytest.raises(SkipRowsError, match="premature end of data segment"):
        DecodeImages("jpg", 40, decoder="simplejpeg")({"jpg": [cut]})


@needs_simplejpeg
def test_what_libjpeg_only_grumbles_at_is_decoded():
    """Junk between segments: simplejpeg refuses, Pillow decodes, nothing is lost."""
    import simplejpeg

    start = JPEG.index(b"\xff\xda")
    odd = JPEG[:start] + b"\0\0\0" + JPEG[start:]
    with pytest.raises(ValueError, match="extraneous"):
        simplejpeg.decode_jpeg(odd)
    images = DecodeImages("jpg", 40, decoder="simplejpeg")({"jpg": [odd, JPEG]})["jpg"]
    assert torch.equal(images[0], images[1])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", ["jpeg", "png", "webp"])
def test_decompression_bombs(decoder, name, monkeypatch):
    decode_images = DecodeImages("jpg", 16, decoder=decoder, num_threads=1)
    width, height = Image.open(io.BytesIO(FILES[name])).size
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * height // 2 - 1)
    with pytest.raises(SkipRowsError, match="decompression bomb"):
        decode_images({"jpg": [FILES[name]]})
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", width * height - 1)
    with pytest.raises(SkipRowsError, match="decompression bomb"):  # Warnings are errors here.
        decode_images({"jpg": [FILES[name]]})
    with warnings.catch_warnings(record=True, action="always") as caught:
        assert decode_images({"jpg": [FILES[name]]})["jpg"].shape == (1, 3, 16, 16)
    assert {entry.category for entry in caught} == {Image.DecompressionBombWarning}
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    decode_images({"jpg": [FILES[name]]})


@pytest.mark.parametrize("decoder", DECODERS)
def test_broken_bytes_never_raise_anything_else(decoder):
    draw = random.Random(0)
    names = ["jpeg", "progressive", "orientation 6", "png", "clear palette", "webp", "16-bit png"]
    rows = []
    for _ in range(400):
        encoded = bytearray(FILES[draw.choice(names)])
        for _ in range(draw.choice([1, 3, 20])):
            encoded[draw.randrange(min(len(encoded), draw.choice([60, 10**6])))] ^= (
                1 << draw.randrange(8)
            )
        rows.append(bytes(encoded))
    with pytest.raises(SkipRowsError) as raised:
        DecodeImages("jpg", 16, decoder=decoder, num_threads=2)({"jpg": rows})
    assert 40 < len(raised.value.reasons) < 400


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_broken_exif_leaves_an_image_as_it_lies():
    encoded = file(photo(121, 90), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    images = DecodeImages("jpg", 40)({"jpg": [encoded, file(photo(121, 90))]})["jpg"]
    assert torch.equal(images[0], images[1])


def channel_means(image):
    """A transform: [3], float."""
    return torch.tensor(np.asarray(image, dtype=np.float32).mean((0, 1)))


@pytest.mark.parametrize("decoder", DECODERS)
def test_transform_gets_upright_images(decoder):
    seen = []

    def transform(image):
        seen.append((image.mode, image.size))
        return channel_means(image)

    rows = [FILES["orientation 6"], FILES["png"]]
    images = DecodeImages("jpg", decoder=decoder, transform=transform, num_threads=1)
    means = images({"jpg": rows})["jpg"]
    assert seen == [("RGB", (90, 121)), ("RGB", (77, 120))]
    for row, mean in zip(rows, means, strict=True):
        torch.testing.assert_close(mean, channel_means(Image.open(io.BytesIO(row))))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_transform_may_keep_the_image(decoder, mode):
    rows, kept = [file(photo(64, 64, seed)) for seed in range(5)], []

    def keep(image):
        kept.append(image)
        return torch.zeros(1)

    DecodeImages("jpg", mode=mode, decoder=decoder, transform=keep, num_threads=1)({"jpg": rows})
    for row, image in zip(rows, kept, strict=True):
        np.testing.assert_array_equal(image, decode(row, mode, "pillow").squeeze())


def test_one_thread_is_the_callers():
    threads = set()

    def note(image):
        threads.add(threading.current_thread())
        return torch.zeros(1)

    DecodeImages("jpg", transform=note, num_threads=1)({"jpg": [FILES["jpeg"]] * 20})
    assert threads == {threading.current_thread()}


@pytest.mark.parametrize("kind", [EOFError, IndexError, TypeError, struct.error, UserWarning])
def test_whatever_a_reader_says_of_broken_bytes(kind, monkeypatch):
    monkeypatch.setattr(Image, "open", Mock(side_effect=kind("odd bytes")))
    with pytest.raises(SkipRowsError, match="cannot be decoded: odd bytes"):
        DecodeImages("jpg", num_threads=1)({"jpg": [FILES["png"]]})


def test_running_out_of_memory_is_no_bad_image(monkeypatch):
    monkeypatch.setattr(Image, "open", Mock(side_effect=MemoryError))
    with pytest.raises(MemoryError):
        DecodeImages("jpg", num_threads=2)({"jpg": [FILES["png"]]})


def test_transform_with_fast_scaling_gets_small_images():
    sizes = DecodeImages(
        "jpg",
        50,
        fast_scaling=True,
        transform=lambda image: torch.tensor(image.size),
    )
    assert sizes({"jpg": [file(photo(400, 300))]})["jpg"].tolist() == [[100, 75]]


@pytest.mark.parametrize(
    ("transform", "words"),
    [
        (lambda image: torch.zeros(image.size), r"one shape .* row 1 torch.float32 of \(77, 120\)"),
        (lambda image: np.zeros(3), "must return a tensor, got ndarray for row 0"),
    ],
)
def test_transforms_of_the_wrong_kind(transform, words):
    with pytest.raises(ValueError, match=words):
        DecodeImages("jpg", transform=transform)({"jpg": [FILES["jpeg"], FILES["png"]]})


@pytest.mark.parametrize("num_threads", [1, 2])
def test_an_exception_of_the_transform_reaches_the_caller(num_threads):
    def transform(image):
        raise ZeroDivisionError("the user's own")

    decode_images = DecodeImages("jpg", transform=transform, num_threads=num_threads)
    with pytest.raises(ZeroDivisionError, match="the user's own"):
        decode_images({"jpg": [FILES["jpeg"]] * 40})
    decode_images.transform = channel_means
    assert decode_images({"jpg": [FILES["jpeg"]]})["jpg"].shape == (1, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"size": 0}, "size must be a whole number of at least 1, got 0"),
        ({"size": 224.0}, "size must be a whole number"),
        ({"num_threads": 0}, "num_threads must be a whole number of at least 1, got 0"),
        ({"mode": "RGBA"}, "mode must be one of RGB, L, got 'RGBA'"),
        ({"decoder": "opencv"}, "must be one of auto, simplejpeg, pillow, got 'opencv'"),
        ({"transform": 3}, "transform must be a function"),
    ],
)
def test_refused_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        DecodeImages("jpg", **arguments)


def test_without_simplejpeg(monkeypatch):
    monkeypatch.setitem(sys.modules, "simplejpeg", None)
    assert DecodeImages("jpg").decoder == "pillow"
    with pytest.raises(ValueError, match="pip install simplejpeg"):
        DecodeImages("jpg", decoder="simplejpeg")
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match="pip install pillow"):
        DecodeImages("jpg")


@needs_simplejpeg
def test_simplejpeg_is_the_default():
    assert DecodeImages("jpg").decoder == "simplejpeg"


@pytest.mark.parametrize(
    ("batch", "options", "words"),
    [
        ({"png": [], "text": []}, {}, "no column 'jpg', it has 'png', 'text'"),
        ([b""], {}, "must be a dict of columns, got list"),
        ({"jpg": torch.zeros(3, 8, 8)}, {}, "must be a list of encoded images, got Tensor"),
        ({"jpg": [], "image": []}, {"out_column": "image"}, "has a column 'image'"),
    ],
)
def test_refused_batches(batch, options, words):
    with pytest.raises(ValueError, match=words):
        DecodeImages("jpg", **options)(batch)


def test_threads_start_late_and_end_with_close():
    before = threading.active_count()
    with DecodeImages("jpg", 16, num_threads=2) as decode_images:
        assert threading.active_count() == before
        decode_images({"jpg": [FILES["jpeg"]] * 40})
        assert threading.active_count() == before + 2
    assert threading.active_count() == before
    decode_images({"jpg": [FILES["jpeg"]]})
    decode_images.close()
    decode_images.close()


def test_threads_end_with_the_object():
    before = threading.active_count()
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    decode_images({"jpg": [FILES["jpeg"]] * 40})
    del decode_images
    deadline = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_pickles_without_its_threads():
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    batch = {"jpg": [FILES["jpeg"]] * 5}
    images = decode_images(batch)["jpg"]
    copy = pickle.loads(pickle.dumps(decode_images))
    assert torch.equal(copy(batch)["jpg"], images)
    copy.close()
    decode_images.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_goes_on_in_another_process(method):
    decode_images = DecodeImages("jpg", 16, num_threads=2)
    batch = {"jpg": [FILES["jpeg"]] * 20}
    images = decode_images(batch)["jpg"]
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    process = context.Process(target=_decode_into, args=(queue, decode_images, batch), daemon=True)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    assert np.array_equal(queue.get(), images.numpy())
    decode_images.close()


def _decode_into(queue, decode_images, batch):
    queue.put(decode_images(batch)["jpg"].numpy())


def test_interpreter_ends_with_threads_running():
    program = """
import io
from PIL import Image
from jest_loader.adapters.images import DecodeImages
stream = io.BytesIO()
Image.new("RGB", (20, 20)).save(stream, "JPEG")
decode = DecodeImages("jpg", 16, num_threads=3)
print(decode({"jpg": [stream.getvalue()] * 50})["jpg"].shape[0])
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert (result.stdout, result.stderr) == ("50\n", "")


def test_several_callers_at_once():
    rows = [[file(photo(60, 50, 7 * caller + n)) for n in range(30)] for caller in range(3)]
    with DecodeImages("jpg", 20, num_threads=2) as decode_images:
        results = [None] * 3

        def call(caller):
            results[caller] = decode_images({"jpg": rows[caller]})["jpg"]

        callers = [threading.Thread(target=call, args=(caller,)) for caller in range(3)]
        for thread in callers:
            thread.start()
        for thread in callers:
            thread.join()
    alone = DecodeImages("jpg", 20, num_threads=1)
    for encoded, images in zip(rows, results, strict=True):
        assert torch.equal(images, alone({"jpg": encoded})["jpg"])


def test_materialize_decodes_the_chosen_rows_only():
    rows = [file(photo(40, 30, n)) for n in range(40)]
    source = [{"jpg": rows[n : n + 10], "number": torch.arange(n, n + 10)} for n in (0, 10, 20, 30)]
    seen = []

    def transform(image):
        seen.append(image)
        return channel_means(image)

    with DecodeImages("jpg", transform=transform, num_threads=2) as decode_images:
        dataset = JestDataset(
            source,
            None,
            selector=UniformSelector(),
            super_batch_size=20,
            sub_batch_size=4,
            materialize=decode_images,
        )
        for batch in dataset:
            for number, mean in zip(batch["number"].tolist(), batch["jpg"], strict=True):
                torch.testing.assert_close(
                    mean, channel_means(Image.open(io.BytesIO(rows[number])))
                )
    assert len(seen) == 8
