"""Slack's own types (`@slack/types`, by `tsc`) read every golden message, window and Home tab."""

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
    """Install what package-lock.json says; without npm there is no judge, which is said aloud."""
    need("npm")
    tsc = HERE / "node_modules" / ".bin" / "tsc"
    installed = HERE / "node_modules" / ".package-lock.json"
    lock = HERE / "package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < lock.stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=HERE, check=True, capture_output=True, timeout=300)
        installed.touch()
    return tsc


def read_by_types(compiler: Path, name: str, source: str) -> str:
    """Compile a file beside the installed types; what the compiler found, empty when all is well."""
    file = HERE / "node_modules" / f"{name}.ts"
    file.write_text(source)
    words = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", file.name]
    # Into a file: what Node has not yet written into a pipe may be lost when it ends.
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


def test_slacks_own_types_read_every_golden_message(compiler: Path) -> None:
    files = sorted(GOLDEN.glob("*.json"))
    assert len(files) > 30
    source = IMPORT + "".join(declared(file.stem, json.loads(file.read_text())) for file in files)
    assert read_by_types(compiler, "golden", source) == ""


def test_the_judge_refuses_what_is_no_block(compiler: Path) -> None:
    wrong = {"text": "x", "blocks": [{"type": "section", "txt": "no such key"}]}
    assert "txt" in read_by_types(compiler, "wrong", IMPORT + declared("wrong", wrong))
