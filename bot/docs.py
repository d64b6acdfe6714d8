"""Generates pages from the code: the Slack manifest, configuration, modules, the README's command table."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

from bot.engine.registry import Registry
from bot.intake.manifest import manifest
from bot.settings import DEFAULTS, load


def configuration() -> str:
    """Return the configuration reference: the sections of the shipped file, with their comments and tables of keys."""
    lines = ["# Configuration", "", "Made from `bot/default.toml` by `make docs`; do not edit it here.", ""]
    for section in DEFAULTS.read_text().strip().split("\n\n"):
        lines += _section(section)
    return "\n".join(lines)


def _section(text: str) -> list[str]:
    """Return the lines of a section: comments before its name describe the section, those before a key that key."""
    lines: list[str] = []
    rows: list[tuple[str, str, str]] = []
    said: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            said.append(line.removeprefix("# "))
        elif name := re.fullmatch(r"\[([\w.-]+)\]", line):
            lines += [f"## `[{name[1]}]`", ""]
            lines += [" ".join(said), ""] if said else []
            said = []
        elif setting := re.fullmatch(r"(\w+) = (.*)", line):
            rows.append((setting[1], setting[2], " ".join(said)))
            said = []
    if not rows:
        return lines or [" ".join(said), ""]
    if any(meaning for _, _, meaning in rows):
        lines += ["| key | default | meaning |", "|---|---|---|"]
        lines += [f"| `{key}` | `{value}` | {meaning} |" for key, value, meaning in rows]
    else:
        lines += ["| key | default |", "|---|---|", *(f"| `{key}` | `{value}` |" for key, value, _ in rows)]
    return [*lines, ""]


def command_table(registry: Registry) -> str:
    """Return the README's table of commands, with the shipped policies."""
    settings = load(DEFAULTS, environment={})
    rows = ["| command | what it does | approval |", "|---|---|---|"]
    for command in registry.commands.values():
        usage = command.usage.replace("|", "\\|")
        changes = "yes" if settings.policy(command.name).approvals else "at once"
        rows.append(f"| `/mautic {usage}` | {command.summary} | {changes if command.kind == 'operation' else ''} |")
    return "\n".join(rows)


def modules(root: Path) -> str:
    """Return the page that lists every module of the bot by folder, with the first paragraph of its docstring."""
    lines = ["# Modules", "", "Made from the modules' docstrings by `make docs`; do not edit it here.", ""]
    folders = sorted(path.parent for path in (root / "bot").rglob("__init__.py"))
    for folder in folders:
        if folder.name != "page":
            lines += _room(root, folder)
    return "\n".join(lines)


def _room(root: Path, folder: Path) -> list[str]:
    lines = [f"## `{folder.relative_to(root)}/`", "", _first(folder / "__init__.py"), ""]
    files = [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]
    if files:
        lines += [
            "| module | what it is for |",
            "|---|---|",
            *(f"| `{one.name}` | {_first(one)} |" for one in files),
            "",
        ]
    return lines


def _first(path: Path) -> str:
    """Return the first paragraph of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def pages(root: Path, registry: Registry) -> dict[Path, str]:
    """Return what each generated file should hold, by its path."""
    readme = root / "README.md"
    table = f"<!-- commands -->\n{command_table(registry)}\n<!-- /commands -->"
    return {
        root / "docs" / "slack-manifest.json": json.dumps(manifest(), indent=2) + "\n",
        root / "docs" / "configuration.md": configuration(),
        root / "docs" / "modules.md": modules(root),
        readme: re.sub(r"<!-- commands -->.*<!-- /commands -->", lambda _: table, readme.read_text(), flags=re.S),
    }
