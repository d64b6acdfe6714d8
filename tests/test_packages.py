"""Every program that the suite starts comes from a package of the one list, or from Debian itself."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.lxd import packages
from bot.lxd.packages import CannotInstall
from tests.support import packages as suite
from tests.support import programs
from tests.support.own import ROOT

OURS = {"python", "npx"}
SCRIPTS = [*(ROOT / "tests").rglob("*.sh"), ROOT / ".ci" / "run"]
SOURCES = [
    path
    for folder in ("bot", "tests")
    for path in (ROOT / folder).rglob("*.py")
    # Code that runs inside a tenant uses the tenant's programs.
    if not {"node_modules", "mautic_ctl", "mautic_double"} & set(path.parts)
]


def named(path: Path) -> Iterator[str]:
    """Yield the programs that a source names: those it looks for, and the first words of the commands it runs."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        first = node.args[0]
        if name in ("run", "Popen", "check_output", "_run") and isinstance(first, ast.List):
            first = first.elts[0]
        elif name not in ("which", "_run", "need"):
            continue
        if isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def test_every_program_that_a_source_names_is_on_the_list() -> None:
    found = {(path.name, program) for path in SOURCES for program in named(path)}
    assert {"unshare", "npm", "losetup", "chromium"} <= {program for _, program in found}, (
        "`named` finds too few programs"
    )
    strangers = {(name, program) for name, program in found if not suite.known(program)}
    # Ubuntu's way to install LXD; the sources check whether it is there.
    assert strangers - {("install.py", "snap"), ("packages.py", "snap")} == set()


def test_every_program_that_a_script_starts_is_on_the_list() -> None:
    """Checks the first word of each command, without the shell's builtins and the script's functions."""
    for script in SCRIPTS:
        text = script.read_text()
        # A here-document is a script for the image, and runs there.
        text = re.sub(r"<< ?'?(\w+)'?.*?^\1$", "", text, flags=re.M | re.S)
        text = re.sub(r"^\s*#.*$|\\\n", "", text, flags=re.M)
        words = set(re.findall(r"(?:^|[|;&(]|\bdo\b|\bthen\b)\s*(?:sudo )?([a-z][\w.-]*)(?=\s|$)", text, re.M))
        own = {*re.findall(r"(\w+)\(\)", text), "set", "trap", "for", "do", "done", "local", "shift", "cd", "export"}
        own |= {"case", "esac", "if", "then", "else", "elif", "fi", "echo", "while", "exit", "printf", "stage", "make"}
        own |= {"exec", "umask", "return", "read", "unset", "eval", "wait", "source", "test"}
        assert {word for word in words - own if not suite.known(word)} == set(), script


def test_a_started_program_that_is_not_on_the_list_is_noticed(tmp_path: Path) -> None:
    stranger = Path("/var/lib/no-such-program")
    with pytest.raises(FileNotFoundError):
        subprocess.run([stranger, "x"], check=True)
    assert programs.look() == [str(stranger)]
    (tmp_path / "own").write_text("#!/bin/sh\n")
    (tmp_path / "own").chmod(0o755)
    for command in ([tmp_path / "own"], [sys.executable, "-c", ""], ["sh", "-c", "exit 0"]):
        subprocess.run(command, check=True)
    assert programs.look() == []


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not Debian")
@pytest.mark.parametrize("program", sorted(suite.BASE))
def test_a_program_of_the_base_list_comes_with_every_debian(program: str) -> None:
    """The program's package is essential, or has the priority `required`."""
    alternatives = {"awk": "mawk"}
    wanted = alternatives.get(program, program)
    found = [f"{folder}/{wanted}" for folder in ("/bin", "/usr/bin", "/sbin", "/usr/sbin")]
    owners = subprocess.run(["dpkg-query", "--search", *found], capture_output=True, text=True, check=False).stdout
    names = {line.partition(":")[0] for line in owners.splitlines() if not line.startswith("diversion")}
    shown = "${Essential} ${Priority}\n"
    kinds = subprocess.run(
        ["dpkg-query", "--show", f"--showformat={shown}", *names], capture_output=True, text=True, check=True
    )
    assert any("yes" in kind or "required" in kind for kind in kinds.stdout.splitlines()), (names, kinds.stdout)


@pytest.mark.skipif(shutil.which("dpkg-query") is None, reason="not Debian")
@pytest.mark.parametrize("package", suite.SUITE, ids=lambda package: package.name)
def test_a_package_contains_the_programs_that_the_list_says(package: packages.Package) -> None:
    asked = subprocess.run(["dpkg-query", "--listfiles", package.name], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"{package.name} is not installed; what it gives came from elsewhere")
    # Debian's npm depends on nodejs.
    given = {Path(line).name for line in asked.stdout.splitlines()} | ({"node"} if package.name == "npm" else set())
    # Some have a program in another of their packages.
    other = {"lxd": {"lxc"}, "lxcfs": set()}
    assert set(package.programs) - given - other.get(package.name, set()) == set()


class TestInstalling:
    @pytest.fixture
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine with nothing but an `apt-get`, which writes its arguments into the file `asked`."""
        (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
        (tmp_path / "apt-get").chmod(0o755)
        (tmp_path / "asked").touch()
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

        def which(program: str, path: str | None = None) -> str | None:
            return str(tmp_path / program) if (tmp_path / program).exists() else None

        monkeypatch.setattr(shutil, "which", which)
        return tmp_path

    def test_lxd_is_installed_last_and_nftables_before_it(self, machine: Path) -> None:
        suite.install()
        update, tools, lxd = (machine / "asked").read_text().splitlines()
        assert update.endswith("update")
        assert {"busybox-static", "npm", "chromium", "nftables"} <= set(tools.split())
        assert "lxd" not in tools.split()
        assert lxd.endswith(" install lxd")

    def test_a_package_whose_programs_are_there_is_not_missing(self, machine: Path) -> None:
        for package in suite.SUITE:
            for program in package.programs:
                (machine / program).touch()
        assert {"npm", "curl", "chromium", "lxd"} & set(packages.missing(suite.SUITE)) == set()

    def test_only_missing_packages_for_building_a_blueprint_are_installed(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They are missing where the LXD server was there before the bot."""
        (machine / "zstd").touch()
        told: list[str] = []
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        packages.provide(packages.BUILDS, told.append)
        assert (machine / "asked").read_text() == "", (
            "without root nothing is installed: the build says what is missing"
        )
        monkeypatch.setattr("os.geteuid", lambda: 0)
        packages.provide(packages.BUILDS, told.append)
        assert " install debootstrap" in (machine / "asked").read_text().splitlines()[-1]
        assert told[-1].startswith("installing debootstrap")
        assert "zstd" not in told[-1]

    def test_without_root_one_sentence_says_what_to_install(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        with pytest.raises(CannotInstall, match=r"only root may: `apt-get install .*busybox-static.* lxd lxcfs`\.$"):
            suite.install()

    def test_on_another_distribution_one_sentence_says_what_to_install(self, machine: Path) -> None:
        (machine / "apt-get").unlink()
        with pytest.raises(CannotInstall, match=r"neither Debian nor Ubuntu: install .*npm.* by hand"):
            suite.install()
        assert (machine / "asked").read_text() == ""


def test_nothing_else_installs_anything() -> None:
    """`.ci/run`, the Makefile and the tests have no list of their own."""
    written = [*SCRIPTS, ROOT / "Makefile"]
    assert [path.name for path in written if re.search(r"apt-get|dpkg|snap install", path.read_text())] == []
    assert "make -s packages" in (ROOT / ".ci" / "run").read_text()
