"""`make lowest`: runs the suite's quick part with the lowest versions that `pyproject.toml` allows.

    python -m tests.support.lowest [pytest's arguments]

Only the bot's own direct dependencies have their lowest versions: the tools of the tests are those of uv.lock.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

from tests.support.own import ROOT

QUICK = ["-n", "4", "--dist", "loadfile", "-m", "not edge and not lab"]


def main(words: list[str]) -> int:
    """Make a separate environment, print its packages, and run the tests; return pytest's exit code."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    locked = {one["name"]: one["version"] for one in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    bounds = [*project["project"]["dependencies"]]
    for extra in project["project"]["optional-dependencies"].values():
        bounds += extra
    tools = [f"{name}=={locked[name]}" for name in project["dependency-groups"]["dev"]]
    uv = str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory(prefix="mautic-ops-lowest-") as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text("\n".join([*bounds, *tools]))
        subprocess.run([uv, "venv", "--quiet", "--seed", "--python", sys.executable, f"{folder}/venv"], check=True)
        python = f"{folder}/venv/bin/python"
        install = [uv, "pip", "install", "--quiet", "--python", python, "--resolution", "lowest-direct"]
        subprocess.run([*install, "--requirements", str(requirements)], check=True)
        print(subprocess.check_output([uv, "pip", "freeze", "--python", python], text=True), flush=True)
        return subprocess.run([python, "-m", "pytest", *(words or QUICK)], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
