"""The tables of ``service`` and ``engine`` on a CUDA device, and what bounds it there.

Without such a device it says so and returns 2.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command_line, engine, service

_NONE = 2
# Eight times what the clients ever have in flight: while the first wave is read and the last one is
# written, the device has little to do.
_TEXTS = 8192


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both, and return 0 if every goal of both is met, 1 if not, 2 where there is no device."""
    parser = command_line.parser("gpu", __doc__)
    command_line.add_rounds(parser)
    parser.add_argument(
        "--texts", type=command_line.positive, default=_TEXTS, metavar="N", help=f"default {_TEXTS}"
    )
    asked = parser.parse_args(arguments)
    if not command_line.has_cuda():
        print("no CUDA device on this machine: nothing was measured", file=sys.stderr)
        return _NONE
    same = ["--device=cuda", "--model=nomic", f"--cache={asked.cache}"]
    same += [f"--rounds={asked.rounds}", f"--texts={asked.texts}"]
    settings = ["--settings=4x2,16x4,32x8,64x16", "--sides=reference,bf16"]
    compared = service.main([*same, *settings, *_out(asked.out, "service")])
    bounds = ["--setting=64x16", "--precisions=bf16,fp16,fp32"]
    return max(compared, engine.main([*same, *bounds, *_out(asked.out, "engine")]))


def _out(file: Path, name: str) -> list[str]:
    """Return the argument that has ``name`` written beside the other: ``FILE.service.json``."""
    return [f"--out={file.with_suffix(f'.{name}.json')}"]


if __name__ == "__main__":
    sys.exit(main())
