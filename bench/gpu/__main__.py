r"""What does selection cost on a GPU, and are its kernels right there?

Regime: one GPU, data centre class, with nothing else to do. Parts run one after the other, the most
important first, each in a process of its own; every figure is on disk once it is known. A run that
was killed, or had no time left for a part, is continued by the same command.

    python -m bench.gpu --out runs/gpu
    python -m bench.gpu --out runs/gpu --parts selection tiles --seconds 120
    python -m bench.gpu --report runs/gpu
    python -m bench.gpu --report runs/gpu --tiles
    python -m bench.gpu --smoke --out runs/gpu-smoke

``--report`` prints the table of a result, and with ``--tiles`` the lines for
``jest_loader/ops/tiles.py``. ``--smoke`` runs everything on a CPU, kernels interpreted and sizes
tiny: its times mean nothing. ``--data`` names the folder that ``bench.joint.dictionary`` wrote;
without it the last part is left out. The last line of the output is one JSON document.
"""

import argparse
import json
import sys
from pathlib import Path

import torch

from bench.gpu.document import NAME, TABLE, Document, read
from bench.gpu.part import run_part
from bench.gpu.parts import PARTS
from bench.gpu.report import table, tiles_source
from bench.gpu.running import Budget, run_parts
from bench.harness import environment, parser_of, print_document


def parsed() -> argparse.Namespace:
    """The command's arguments."""
    parser = parser_of(__doc__, smoke=True)
    parser.add_argument("--out", type=Path, help=f"folder of {NAME} and {TABLE}")
    parser.add_argument("--seconds", type=float, default=540, help="of the whole run; 540 if unset")
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--data", type=Path, help="what bench.joint.dictionary wrote")
    parser.add_argument("--report", type=Path, help="print the table of this result instead")
    parser.add_argument("--tiles", action="store_true", help="with --report, lines for tiles.py")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=540, help=argparse.SUPPRESS)
    parser.add_argument("--done", type=json.loads, default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.report is None and arguments.out is None:
        parser.error("name the folder of the results with --out")
    return arguments


def main() -> None:
    """Print a report, run a part for the process that asks for it, or run all parts."""
    arguments = parsed()
    if arguments.report is not None:
        values = read(arguments.report)
        print(tiles_source(values) if arguments.tiles else table(values))
        return
    out: Path = arguments.out.absolute()
    data: Path | None = arguments.data and arguments.data.absolute()
    if arguments.part is not None:
        run_part(
            arguments.part,
            smoke=arguments.smoke,
            out=out,
            data=data,
            done=arguments.done,
            limit_s=arguments.limit,
        )
        return
    if not arguments.smoke and not torch.cuda.is_available():
        sys.exit(
            "bench.gpu needs a CUDA GPU and PyTorch sees none here; --smoke runs all of it in "
            "small on a CPU"
        )
    out.mkdir(parents=True, exist_ok=True)
    device = "cpu" if arguments.smoke else "cuda"
    try:
        document = Document(out, environment(device), smoke=arguments.smoke)
    except ValueError as error:
        sys.exit(str(error))

    def written(name: str) -> None:
        part = document.part(name)
        print(f"{name:10s} {part['state']:8s} {part['seconds']:5.0f} s", flush=True)
        (out / TABLE).write_text(table(document.values) + "\n")

    options = ["--out", str(out), *(["--smoke"] if arguments.smoke else [])]
    options += [] if data is None else ["--data", str(data)]
    run_parts(arguments.parts, document, Budget(arguments.seconds), options, after_each=written)
    print(table(document.values))
    print_document({"document": str(out / NAME)}, device=device)


if __name__ == "__main__":
    main()
