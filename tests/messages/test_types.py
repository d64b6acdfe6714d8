"""Every golden message, modal and Home tab compiles (`tsc`) against Slack's own types (`@slack/types`)."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.support.real_lxd import need

HERE = Path(__file__).parent
GOLDEN = HERE / "golden"
KINDS = {"modal": "ModalView", "home": "HomeView", "": "{ text: string; blocks: KnownBlock[] }"}


@pytest.fixture(scope="module")
def compiler() -> Path:
    """The path of `tsc`, installed as package-lock.json says. Without npm the tests skip or fail: see `need`."""
    need("npm")
    tsc = HERE / "node_modules" / ".bin" / "tsc"
    installed = HERE / "node_modules" / ".package-lock.json"
    lock = HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, capture_output=True, timeout=300)
        installed.touch()
    return tsc


def read_by_types(compiler: Path, name: str, source: str) -> str:
    """Compile a file beside the installed types; return the compiler's errors, "" if there are none."""
    file = HERE / "node_modules" / f"{name}.ts"
    file.write_text(source)
    words = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", file.name]
    # Into a file: output that Node has not yet written to a pipe may be lost when it exits.
    with tempfile.TemporaryFile("w+") as said:
        subprocess.run(
            [compiler.absolute(), *words], cwd=file.parent, stdout=said, stderr=said, timeout=120, check=False
        )
        said.seek(0)
        return said.read()


def declared(name: str, shown: dict[str, object]) -> str:
    kind = KINDS[str(shown.get("type", ""))]
    return f"export const {name.replace('-', '_')}: {kind} = {json.dumps(shown, indent=1)};\n"


IMPORT = 'import type { HomeView, KnownBlock, ModalView } from "@slack/types";\n'


def test_every_golden_message_compiles_against_slacks_types(compiler: Path) -> None:
    files = sorted(GOLDEN.glob("*.json"))
    assert len(files) > 30
    source = IMPORT + "".join(declared(file.stem, json.loads(file.read_text())) for file in files)
    assert read_by_types(compiler, "golden", source) == ""


def test_the_compiler_refuses_an_invalid_block(compiler: Path) -> None:
    wrong = {"text": "x", "blocks": [{"type": "section", "txt": "no such key"}]}
    assert "txt" in read_by_types(compiler, "wrong", IMPORT + declared("wrong", wrong))
