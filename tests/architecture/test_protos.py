"""The generated code is what the protos make."""

from __future__ import annotations

from pathlib import Path

from control_plane.grpc.generating import GENERATED, PROTOS, generate


def test_the_committed_code_is_what_the_protos_make(tmp_path: Path) -> None:
    made = generate(tmp_path)
    committed = {path.name for path in GENERATED.iterdir() if path.suffix in (".py", ".pyi")} - {"__init__.py"}
    assert set(made) == committed
    drifted = [name for name in made if (tmp_path / name).read_bytes() != (GENERATED / name).read_bytes()]
    assert drifted == [], "run `python -m control_plane.grpc.generating`"


def test_every_proto_says_what_it_is_for_and_every_method_what_it_does_or_is_named_plainly() -> None:
    for path in PROTOS.rglob("*.proto"):
        assert path.read_text("utf-8").startswith("// ")
        assert path.parent.relative_to(PROTOS).as_posix().endswith("/v1")
