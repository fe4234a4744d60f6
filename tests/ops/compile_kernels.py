"""Compile the sums' kernel for GPUs that need not be there; print what the compiler made of it.

A process of its own, since in the tests' process Triton interprets.
"""

import json
import re
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from jest_loader.ops import fused
from jest_loader.ops.tiles import FASTEST, Tiles, Work, by_rule

TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

# Compute capability and the most shared memory a block may have: A100, RTX 4090, H100.
GPUS = {80: 163 << 10, 89: 99 << 10, 90: 227 << 10}
DTYPES = {"fp16": 2, "bf16": 2, "fp32": 4}
SIZES = ((5120, 64), (20_480, 100), (163_840, 2048))


def main() -> None:
    """Compile it for small and large super-batches, both losses and all dtypes."""
    found = []
    both = (False, True)
    for capability, dtype, size, softmax, groups in product(GPUS, DTYPES, SIZES, both, both):
        if dtype == "bf16" and capability != 90:
            continue  # Before Hopper it takes fp16's path.
        tiles = by_rule(Work(*size, DTYPES[dtype]), GPUS[capability])
        found.append(compiled(capability, dtype, tiles, softmax, groups))
    for device, table in FASTEST.items():
        capability = 80 if "A100" in device else 90
        for (work, tiles), groups in product(table.items(), both):
            dtype = "fp16" if work.element_size == 2 else "fp32"
            found.append(compiled(capability, dtype, tiles, False, groups))
    fused_noise()
    sys.stdout.write(json.dumps(found))


def compiled(
    capability: int, dtype: str, tiles: Tiles, softmax: bool, groups: bool
) -> dict[str, Any]:
    """What one kernel is and what the compiler made of it."""
    kernel = compile_sums(capability, dtype, tiles, softmax, groups)
    return {
        "capability": capability,
        "shared_bytes_of_gpu": GPUS[capability],
        "dtype": dtype,
        "softmax": softmax,
        "groups": groups,
        **tiles._asdict(),
        **properties(kernel),
    }


def fused_noise() -> None:
    """Compile the noise's kernel, of which nothing is asked but that it compiles."""
    names = ("logits", "out", "gain", "key", "num_candidates", "first", "stride", "BLOCK")
    types = ("*fp32", "*fp32", "fp32", "i64", "i32", "i64", "i64", "constexpr")
    source = ASTSource(fused._perturbed, dict(zip(names, types, strict=True)), {"BLOCK": 1024})
    triton.compile(source, target=GPUTarget("cuda", 90, 32))


def compile_sums(capability: int, dtype: str, tiles: Tiles, softmax: bool, groups: bool) -> Any:
    """The kernel of the sums, for one GPU, dtype and tiles, with groups or without."""
    names = ("groups", "drawn_groups")
    constants = {
        **({} if groups else dict.fromkeys(names)),
        "SOFTMAX": softmax,
        "CANDIDATES": tiles.candidates,
        "CHUNK": tiles.chunk,
        "WIDTH": tiles.width,
        "PRECISION": "tf32x3" if dtype == "fp32" else None,
    }
    signature = {
        "stacked": f"tensordesc<{dtype}[{tiles.candidates},{tiles.width}]>",
        "drawn": f"tensordesc<{dtype}[{tiles.chunk},{tiles.width}]>",
        "scale_pointer": "*fp32",
        "bias_pointer": "*fp32",
        **dict.fromkeys(names, "*i64"),
        "out": "*fp32",
        "num_candidates": "i32",
        "chunk_size": "i32",
        "width": "i32",
        **dict.fromkeys(constants, "constexpr"),
    }
    return triton.compile(
        ASTSource(fused._sum_over_chunk, signature, constants),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.num_warps, "num_stages": tiles.num_stages},
    )


def properties(kernel: Any) -> dict[str, int]:
    """What it takes of a multiprocessor, and which instructions it has."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = subprocess.check_output([TOOLS / "cuobjdump", "-res-usage", file.name], text=True)
    ptx = kernel.asm["ptx"]
    return {
        "shared_bytes": kernel.metadata.shared,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),
        "stack_bytes": int(re.search(r"STACK:(\d+)", usage)[1]),
        "wgmma": len(re.findall(r"wgmma\.mma_async", ptx)),
        "bulk_copies": len(re.findall(r"cp\.async\.bulk\.tensor", ptx)),
    }


if __name__ == "__main__":
    main()
