"""How fast encoded images become a batch of pixels, by which decoder.

Regime: synthetic photographs as JPEGs of quality 88 (20 KB at 256 x 256, 58 KB at 640 x 480), in
memory, decoded, cut and resized to uint8 [B, 3, size, size] by ``DecodeImages``, with 1 and 2
threads; PyTorch is left one thread. All forms of a size are timed in rounds, since only their
ratios carry over to another machine; a ratio is to "usual" with as many threads in the same round,
and the median of all rounds is printed.

    OMP_NUM_THREADS=1 python -m bench.decoding > bench/results/decoding_cpu.txt

Forms:

- usual: Pillow decodes, cuts and resizes (bicubic), as a transform that is run per image.
- pillow, simplejpeg: the decoders of ``DecodeImages``; PyTorch resizes. Scaled: with
  ``fast_scaling``.
- opencv, torchvision, torchcodec: the same with pixels from these, where they are installed.

Differences are those of uint8 pixels to the usual form's: the largest, and the mean. The last line
of the output is one JSON document.
"""

import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from bench.harness import in_rounds, once_s, parser_of, print_document, ratios, spread
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.images.decoders import Pixels

PACKAGES = {
    "pillow": "PIL",
    "simplejpeg": "simplejpeg",
    "opencv-python-headless": "cv2",
    "torchvision": "torchvision",
    "torchcodec": "torchcodec",
}
THREADS = (1, 2)


class Photos(NamedTuple):
    """Width and height of the images, how many, and what they are resized to."""

    width: int
    height: int
    number: int
    sizes: tuple[int, ...]


REGIMES = [Photos(256, 256, 64, (224, 112, 64)), Photos(640, 480, 32, (224, 112, 64))]
SMOKE = [Photos(128, 96, 4, (32,))]


def main() -> None:
    """Time every form at every size."""
    parser = parser_of(__doc__, smoke=True, repeats=7)
    arguments = parser.parse_args()
    # PyTorch's own threads would compete with those that are measured.
    torch.set_num_threads(1)
    repeats = 1 if arguments.smoke else arguments.repeats
    results = []
    for photos in SMOKE if arguments.smoke else REGIMES:
        encoded = [jpeg(photos.width, photos.height, seed) for seed in range(photos.number)]
        mean_bytes = sum(map(len, encoded)) // len(encoded)
        for size in photos.sizes:
            print(f"{photos.width} x {photos.height}, {mean_bytes} bytes, to {size}")
            forms = measure(encoded, size, repeats)
            for name, form in forms.items():
                print(f"  {name:20s} {describe(form)}", flush=True)
            results.append({**photos._asdict(), "bytes": mean_bytes, "size": size, "forms": forms})
    found = [name for name, module in PACKAGES.items() if installed(module)]
    print_document({"repeats": repeats, "results": results}, packages=found)


def measure(encoded: list[bytes], size: int, repeats: int) -> dict[str, Any]:
    """Times with 1 and 2 threads, and differences, of each form."""
    batch = {"jpg": encoded}
    makers = dict(forms_of(size))
    decoders = {(name, n): make(num_threads=n) for name, make in makers.items() for n in THREADS}
    images = {key: decode(batch)["jpg"].int() for key, decode in decoders.items()}
    runs = {key: partial(decode, batch) for key, decode in decoders.items()}
    taken = in_rounds(runs, repeats, once_s)
    times = {key: [1000 * seconds.wall for seconds in found] for key, found in taken.items()}
    for decode in decoders.values():
        decode.close()
    forms = {}
    for name in makers:
        difference = (images[name, 1] - images["usual", 1]).abs()
        forms[name] = {
            "ms": {n: spread(times[name, n]) for n in THREADS},
            "images_per_s": {n: 1000 * len(encoded) / median(times[name, n]) for n in THREADS},
            "times_usual": {n: spread(ratios(times["usual", n], times[name, n])) for n in THREADS},
            "largest_difference": int(difference.max()),
            "mean_difference": float(difference.float().mean()),
        }
    return forms


def forms_of(size: int) -> Iterator[tuple[str, Callable[..., DecodeImages]]]:
    """Each form's name, and what makes it for a number of threads."""

    def ours(**options: Any) -> Callable[..., DecodeImages]:
        return lambda num_threads: DecodeImages("jpg", size, num_threads=num_threads, **options)

    def with_pixels(pixels: Callable[[bytes], Pixels]) -> Callable[..., DecodeImages]:
        class Other(DecodeImages):
            def _decode(self, encoded: Any) -> Pixels:
                return pixels(encoded)

        return lambda num_threads: Other("jpg", size, num_threads=num_threads)

    yield "usual", ours(decoder="pillow", transform=lambda image: by_pillow(image, size))
    for decoder in ("pillow", "simplejpeg"):
        if installed(decoder.replace("pillow", "PIL")):
            yield decoder, ours(decoder=decoder)
            yield f"{decoder} scaled", ours(decoder=decoder, fast_scaling=True)
    for name, pixels in (
        ("opencv", by_opencv),
        ("torchvision", by_torchvision),
        ("torchcodec", by_torchcodec),
    ):
        if installed("cv2" if name == "opencv" else name):
            yield name, with_pixels(pixels)


def by_pillow(image: Image.Image, size: int) -> torch.Tensor:
    """The centre square, resized."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    square = image.crop((left, top, left + side, top + side))
    resized = square.resize((size, size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def by_opencv(encoded: bytes) -> Pixels:
    """RGB pixels."""
    import cv2

    cv2.setNumThreads(1)
    pixels: Pixels = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    return pixels


def by_torchvision(encoded: bytes) -> Pixels:
    """RGB pixels, a view of [3, height, width]."""
    from torchvision.io import decode_jpeg

    with_copy = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
    pixels: Pixels = decode_jpeg(with_copy, mode="RGB").permute(1, 2, 0).numpy()
    return pixels


def by_torchcodec(encoded: bytes) -> Pixels:
    """RGB pixels, a view of [3, height, width]."""
    from torchcodec.decoders import decode_jpeg

    pixels: Pixels = decode_jpeg(encoded).permute(1, 2, 0).numpy()
    return pixels


def installed(module: str) -> bool:
    """Whether the module could be imported."""
    return importlib.util.find_spec(module) is not None


def jpeg(width: int, height: int, seed: int) -> bytes:
    """Noise at six scales, the finer the weaker, and three straight edges."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 128.0)
    for cells in (4, 8, 16, 32, 64, 128):
        noise = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        smooth = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC), np.float64)
        pixels += (smooth - 128) * 1.1 / (cells / 4) ** 0.6
    down, right = np.mgrid[:height, :width]
    for _ in range(3):
        slopes = random.normal(size=2)
        beyond = slopes[0] * (right - random.uniform(0, width)) > slopes[1] * (
            down - random.uniform(0, height)
        )
        pixels[beyond] += 20 * random.normal(size=3)
    stream = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=88)
    return stream.getvalue()


def describe(form: dict[str, Any]) -> str:
    """One line of the table."""
    rates = "  ".join(
        f"{n} threads {rate:6.0f} images/s, {form['times_usual'][n]['median']:4.2f} x usual"
        for n, rate in form["images_per_s"].items()
    )
    largest, mean = form["largest_difference"], form["mean_difference"]
    return f"{rates}  difference {largest:3d}, mean {mean:.3f}"


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchvision: its decoders are deprecated
        main()
