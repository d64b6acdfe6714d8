"""The pages that are made from the code: the manifest, the configuration reference, the README's command table."""

from __future__ import annotations

import json
import re
from pathlib import Path

from bot.manifest import manifest
from bot.registry import Registry
from bot.settings import DEFAULTS


def configuration() -> str:
    """Return the configuration reference: the shipped file's own comments, as tables."""
    lines = ["# Configuration", "", "Made from `bot/default.toml` by `make docs`; do not edit it here.", ""]
    said: list[str] = []
    for row in DEFAULTS.read_text().splitlines():
        if row.startswith("#"):
            said.append(row.lstrip("# "))
        elif table := re.fullmatch(r"\[([\w.-]+)\]", row):
            lines += ["", f"## `[{table[1]}]`", *([" ".join(said), ""] if said else [""])]
            lines += ["| key | default | meaning |", "|---|---|---|"]
            said = []
        elif setting := re.fullmatch(r"(\w+) = (.*)", row):
            lines.append(f"| `{setting[1]}` | `{setting[2]}` | {' '.join(said)} |")
            said = []
        elif said:
            lines += [" ".join(said), ""]
            said = []
    return "\n".join(lines) + "\n"


def command_table(registry: Registry) -> str:
    """Return the README's table of commands."""
    rows = ["| command | what it does | approval |", "|---|---|---|"]
    for command in registry.commands.values():
        usage = command.usage.replace("|", "\\|")
        rows.append(f"| `/mautic {usage}` | {command.summary} | {'yes' if command.kind == 'operation' else ''} |")
    return "\n".join(rows)


def pages(root: Path, registry: Registry) -> dict[Path, str]:
    """Return what each generated file should hold, by its path."""
    readme = root / "README.md"
    table = f"<!-- commands -->\n{command_table(registry)}\n<!-- /commands -->"
    return {
        root / "docs" / "slack-manifest.json": json.dumps(manifest(), indent=2) + "\n",
        root / "docs" / "configuration.md": configuration(),
        readme: re.sub(r"<!-- commands -->.*<!-- /commands -->", lambda _: table, readme.read_text(), flags=re.S),
    }
