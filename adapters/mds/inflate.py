"""Decompresses a shard into as many bytes as the index says, and no more."""

import numpy as np


def inflate(stored: memoryview, compression: str | None, num_bytes: int) -> memoryview:
    """The bytes of a compressed shard.

    Args:
        stored: The compressed shard.
        compression: One of those that ``streaming`` knows, such as ``"zstd"`` or ``"br:3"``.
        num_bytes: How many bytes it must have; decompression stops beyond.

    Raises:
        ValueError: if it has more or fewer.
        Exception: whatever a decompressor raises for damaged bytes.
    """
    import cramjam

    family = (compression or "").partition(":")[0]
    into = {
        "br": cramjam.brotli.decompress_into,
        "bz2": cramjam.bzip2.decompress_into,
        "gz": cramjam.gzip.decompress_into,
        "snappy": cramjam.snappy.decompress_raw_into,
        "zstd": cramjam.zstd.decompress_into,
    }[family]
    room = np.empty(num_bytes, np.uint8)
    found = into(stored, room.data)
    if found != num_bytes:
        raise ValueError(f"it has {found} of {num_bytes} bytes")
    return room.data.toreadonly()
