"""`python -m control_plane.grpc.generating [FOLDER]`: the messages of the protos, made anew. A test holds what is committed
to it.

Only the messages: servers and clients are made from the descriptors (`methods`, `client`).

The generator names modules by the proto's package, whose first part is the name of a package that other teams install; so
here they stand in a package of this surface.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PROTOS: Final = ROOT / "schemas" / "proto"
GENERATED: Final = Path(__file__).with_name("generated")


def generate(target: Path) -> list[str]:
    """Writes every generated module into a folder; returns their names. Needs grpcio-tools, which only development has."""
    from grpc_tools import protoc

    protos = sorted(path.relative_to(PROTOS).as_posix() for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as scratch:
        outputs = [f"--{kind}_out={scratch}" for kind in ("python", "pyi")]
        includes = [f"-I{PROTOS}", f"-I{files('grpc_tools') / '_proto'}"]
        if protoc.main(["protoc", *includes, *outputs, *protos]) != 0:
            raise RuntimeError("protoc refused; what it found is above")
        made = sorted(path for path in Path(scratch).rglob("*.py*") if path.suffix in (".py", ".pyi"))
        for path in made:
            shutil.copyfile(path, target / path.name)
        return [path.name for path in made]


if __name__ == "__main__":
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else GENERATED)
