"""Each way to emit batches, as endless iterables over the same shards."""

import io
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from bench.emitting.data import SIZE, with_thumbnails
from bench.emitting.loaders import decoding_loader, map_loader, streaming_loader
from bench.emitting.scorers import scorers
from jest_loader import IndependentSelector, JestDataset, Options
from jest_loader.adapters.images import DecodeImages
from jest_loader.adapters.mds import MdsSource

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])
Batches = Generator[Any, None, None]
Form = Callable[[], Batches]


def forms_of(path: Path, size: int) -> dict[str, Form]:
    """Each form as endless batches, without a thread that reads ahead: CPU time is what counts."""
    full = DecodeImages("jpg", SIZE)

    def selected(name: str, ratio: int) -> Form:
        rows = with_thumbnails(path) if name == "thumbnails" else path
        return lambda: over_and_over(
            JestDataset(
                MdsSource(rows, batch_size=size * ratio),
                scorers()[name],
                IndependentSelector(),
                super_batch_size=size * ratio,
                sub_batch_size=size,
                materialize=full,
                options=Options(prefetch=0),
            )
        )

    def usual(ratio: int, decode: Any) -> Form:
        batches = streaming_loader(path, size * ratio)
        return lambda: (decode(b, slice(size)) for b in over_and_over(batches))

    forms: dict[str, Form] = {
        "floor": lambda: (full(batch) for batch in over_and_over(MdsSource(path, batch_size=size))),
        "DataLoader": lambda: over_and_over(map_loader(path, size)),
        "StreamingDataLoader": lambda: over_and_over(decoding_loader(path, size)),
    }
    for ratio in (5, 10):
        forms |= {
            **{f"{name}, {ratio} x": selected(name, ratio) for name in scorers()},
            f"usual, fast, {ratio} x": usual(ratio, lambda b, rows: {"jpg": full(b)["jpg"][rows]}),
            f"usual, {ratio} x": usual(ratio, pillow_all),
        }
    return forms


def open_clip_transform(image: Image.Image) -> torch.Tensor:
    """What open_clip's evaluation transform does: resize, cut, to floats, normalize."""
    scale = SIZE / min(image.size)
    width, height = (max(SIZE, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - SIZE) // 2, (height - SIZE) // 2
    image = image.crop((left, top, left + SIZE, top + SIZE)).convert("RGB")
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
    return pixels.sub_(MEAN[:, None, None]).div_(STD[:, None, None])


def pillow_all(batch: dict[str, Any], chosen: slice) -> dict[str, Any]:
    """Every image decoded and transformed by Pillow, one after the other; those chosen kept."""
    images = (Image.open(io.BytesIO(encoded)) for encoded in batch["jpg"])
    decoded = [open_clip_transform(image) for image in images]
    return {"jpg": torch.stack(decoded[chosen])}


def over_and_over(batches: Iterable[Any]) -> Batches:
    """Epoch after epoch."""
    while True:
        yield from batches
