"""Whatever the suite starts is given by a package of the one list, or by Debian itself."""

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
    # What runs inside a tenant has the tenant's programs.
    if not {"node_modules", "mautic_ctl", "mautic_double"} & set(path.parts)
]


def named(path: Path) -> Iterator[str]:
    """The programs that a source starts by name: what is looked for, and what a list of words begins with."""
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
    assert {"unshare", "npm", "losetup", "chromium"} <= {program for _, program in found}, "it finds none"
    strangers = {(name, program) for name, program in found if not suite.known(program)}
    # Ubuntu's own way to LXD, of which the sources ask whether it is there.
    assert strangers - {("install.py", "snap"), ("packages.py", "snap")} == set()


def test_every_program_of_a_script_is_on_the_list() -> None:
    """Each first word of a command that is neither the shell's own nor the script's."""
    for script in SCRIPTS:
        text = script.read_text()
        # What goes into the image runs there.
        text = re.sub(r"<< ?'?(\w+)'?.*?^\1$", "", text, flags=re.M | re.S)
        text = re.sub(r"^\s*#.*$|\\\n", "", text, flags=re.M)
        words = set(re.findall(r"(?:^|[|;&(]|\bdo\b|\bthen\b)\s*(?:sudo )?([a-z][\w.-]*)(?=\s|$)", text, re.M))
        own = {*re.findall(r"(\w+)\(\)", text), "set", "trap", "for", "do", "done", "local", "shift", "cd", "export"}
        own |= {"case", "esac", "if", "then", "else", "elif", "fi", "echo", "while", "exit", "printf", "stage", "make"}
        own |= {"exec", "umask", "return", "read", "unset", "eval", "wait", "source", "test"}
        assert {word for word in words - own if not suite.known(word)} == set(), script


def test_what_is_started_and_not_on_the_list_is_seen(tmp_path: Path) -> None:
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
def test_debian_itself_has_what_is_said_to_be_its(program: str) -> None:
    """In a package that every Debian has: essential, or of the priority `required`."""
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
def test_a_package_gives_what_the_list_says(package: packages.Package) -> None:
    asked = subprocess.run(["dpkg-query", "--listfiles", package.name], capture_output=True, text=True, check=False)
    if asked.returncode:
        pytest.skip(f"{package.name} is not installed; what it gives came from elsewhere")
    # Debian's npm depends on nodejs.
    given = {Path(line).name for line in asked.stdout.splitlines()} | ({"node"} if package.name == "npm" else set())
    # Some give a program by another of their packages.
    other = {"lxd": {"lxc"}, "lxcfs": set()}
    assert set(package.programs) - given - other.get(package.name, set()) == set()


class TestInstalling:
    @pytest.fixture
    def machine(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A machine with nothing but an apt-get, which writes down what it was asked."""
        (tmp_path / "apt-get").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
        (tmp_path / "apt-get").chmod(0o755)
        (tmp_path / "asked").touch()
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")

        def which(program: str, path: str | None = None) -> str | None:
            return str(tmp_path / program) if (tmp_path / program).exists() else None

        monkeypatch.setattr(shutil, "which", which)
        return tmp_path

    def test_lxd_comes_last_and_nftables_before_it(self, machine: Path) -> None:
        suite.install()
        update, tools, lxd = (machine / "asked").read_text().splitlines()
        assert update.endswith("update")
        assert {"busybox-static", "npm", "chromium", "nftables"} <= set(tools.split())
        assert "lxd" not in tools.split()
        assert lxd.endswith(" install lxd")

    def test_what_is_there_is_left_alone(self, machine: Path) -> None:
        for package in suite.SUITE:
            for program in package.programs:
                (machine / program).touch()
        assert {"npm", "curl", "chromium", "lxd"} & set(packages.missing(suite.SUITE)) == set()

    def test_what_a_blueprint_is_built_with_is_installed_where_it_is_missing(
        self, machine: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Beside a server that was there before the bot."""
        (machine / "zstd").touch()
        told: list[str] = []
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        packages.provide(packages.BUILDS, told.append)
        assert (machine / "asked").read_text() == "", "who builds says what is missing"
        monkeypatch.setattr("os.geteuid", lambda: 0)
        packages.provide(packages.BUILDS, told.append)
        assert " install debootstrap" in (machine / "asked").read_text().splitlines()[-1]
        assert told[-1].startswith("installing debootstrap")
        assert "zstd" not in told[-1]

    def test_who_is_not_root_is_told_in_one_sentence(self, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("os.geteuid", lambda: 1000)
        with pytest.raises(CannotInstall, match=r"only root may: `apt-get install .*busybox-static.* lxd lxcfs`\.$"):
            suite.install()

    def test_another_distribution_is_told_in_one_sentence(self, machine: Path) -> None:
        (machine / "apt-get").unlink()
        with pytest.raises(CannotInstall, match=r"neither Debian nor Ubuntu: install .*npm.* by hand"):
            suite.install()
        assert (machine / "asked").read_text() == ""


def test_nothing_else_installs_anything() -> None:
    """`.ci/run`, the Makefile and the tests have no list of their own."""
    written = [*SCRIPTS, ROOT / "Makefile"]
    assert [path.name for path in written if re.search(r"apt-get|dpkg|snap install", path.read_text())] == []
    assert "make -s packages" in (ROOT / ".ci" / "run").read_text()
