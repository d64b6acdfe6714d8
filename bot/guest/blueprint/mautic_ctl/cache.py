"""`warm`, `pack_cache`, `lay_cache`: Mautic's compiled cache, made here, or carried over from a copy that had made it.

Making it takes Mautic more than ten seconds, in which nobody would be served. It holds for one version, one set of
plugins, one scheme and what is compiled in of the configuration: of other code it breaks every page and every command.
"""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import trees
from .logs import words_of
from .parameters import read_parameters
from .system import ENVIRONMENT, MAUTIC, CtlError, console, empty, in_words, php_version, read_json, run, write
from .trees import LISTING, NEXT, NEXT_LISTING

PACKED = Path("/root/cache.tar.gz")
"""Where the bot pushes a packed cache."""
MOST = 40 << 20
"""Bytes of a packed cache: Mautic's own has two or three million."""
BUILT = "var/cache/prod"
RUN_TIME = ("local.php", "parameters_local.php")
"""The files in `config` that are read anew by each request; all others of PHP are compiled in."""
LARGEST = 1 << 20
"""Bytes of such a file that count: Mautic's own have some thousands."""
CARRIED = "var/cache/of.json"
"""Beside a cache that was carried over: what it is of."""
LABEL = "of.json"
"""The first file of a packed cache: what it is of."""


def warm(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Make the cache of the tree that serves anew; what is there is deleted first, as other code cannot clear it."""
    trees.must_be_closed()
    began = time.monotonic()
    (MAUTIC / CARRIED).unlink(missing_ok=True)
    empty(MAUTIC / BUILT)
    ended = console("cache:clear")
    if ended.returncode:
        raise CtlError(f"cache:clear ended with {ended.returncode}: {words_of(ended)}")
    return {"seconds": round(time.monotonic() - began, 3)}


def pack_cache(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Pack the cache of the tree that serves, with what it is of."""
    built = MAUTIC / BUILT
    if not built.is_dir() or not any(built.iterdir()):
        raise CtlError("there is no cache to carry over")
    label = json.dumps(cache_of(MAUTIC, trees.read_listing(LISTING))).encode()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as tar:
        info = tarfile.TarInfo(LABEL)
        info.size = len(label)
        tar.addfile(info, io.BytesIO(label))
        tar.add(built, "prod", filter=lambda member: member if member.isfile() or member.isdir() else None)
    if packed.tell() > MOST:
        raise CtlError(f"its cache takes {in_words(packed.tell())} and is not carried over")
    return {"bytes": packed.tell(), "tar": base64.b64encode(packed.getvalue()).decode()}


def lay_cache(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a pushed cache into the staged tree, where it is of what `cache_of` returns."""
    if not trees.staged_version():
        raise CtlError("nothing is staged that a cache could be laid into")
    wanted = cache_of(NEXT, trees.read_listing(NEXT_LISTING))
    told = _label()
    # One that an earlier bot packed does not tell of the configuration.
    other = [name for name, value in wanted.items() if told.get(name, "") != value]
    if other:
        raise CtlError(f"the cache is of another {' and '.join(other)}, and would break every page")
    folder = NEXT / BUILT
    trees.remove(folder)
    run("install", "-d", "-o", "www-data", "-g", "www-data", str(folder))
    if _unpack(folder):
        trees.remove(folder)
        raise CtlError("the packed cache could not be unpacked")
    write(NEXT / CARRIED, json.dumps(wanted))
    PACKED.unlink()
    return {}


def is_carried() -> bool:
    """Whether the cache of the tree that serves was carried over, and is of what that tree is now."""
    told = read_json(MAUTIC / CARRIED)
    return bool(told) and told == cache_of(MAUTIC, trees.read_listing(LISTING))


def cache_of(tree: Path, release: Mapping[str, str]) -> dict[str, str]:
    """Return what a cache of a tree holds for: its version, PHP, the client's own plugins, the scheme of its address,
    and what is compiled in of the client's configuration.

    `release`: the files that the tree's release brought. The configuration is in the tree that serves.
    """
    version = str(read_json(tree / "app/release_metadata.json").get("version"))
    digest = hashlib.sha256()
    for name in trees.own_entries("plugins", tree, release, release):
        for path in sorted((tree / "plugins" / name).rglob("*")):
            if path.is_file():
                digest.update(f"{path.relative_to(tree)}\0".encode(errors="replace") + path.read_bytes())
    parameters = read_parameters()
    return {
        "version": version,
        "PHP": php_version(),
        "set of plugins": digest.hexdigest(),
        "scheme": str(parameters.get("site_url", "")).split(":")[0],
        "configuration": configuration(MAUTIC / "config", parameters),
    }


def configuration(folder: Path, parameters: Mapping[str, Any]) -> str:
    """Return what Mautic compiles in of a client's configuration, "" where it is as a new Mautic's.

    These are app/config/config.php's `api_rate_limiter_*` and `db_host_ro`, and the files that AppKernel and
    config_prod.php include: `config_local.php`, `config_override.php`, `security_local.php`, `bundles_local.php`.
    """
    told: dict[str, Any] = {}
    for path in sorted(folder.glob("*.php")):
        # They are www-data's, who may call anything so, of any size.
        if path.name not in RUN_TIME and path.is_file():
            with path.open("rb") as file:
                told[path.name] = hashlib.sha256(file.read(LARGEST)).hexdigest()
    if parameters.get("db_host_ro"):
        told["replica"] = True
    if str(parameters.get("api_rate_limiter_limit") or "0") != "0":
        told["limiter"] = [parameters["api_rate_limiter_limit"], parameters.get("api_rate_limiter_cache")]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest() if told else ""


def _label() -> dict[str, Any]:
    try:
        with tarfile.open(PACKED) as tar:
            member = tar.next()
            file = tar.extractfile(member) if member and member.name == LABEL else None
            told = json.loads(file.read(1 << 16)) if file else {}
    except (OSError, ValueError, EOFError, tarfile.TarError):
        raise CtlError("the packed cache is not there, or is damaged") from None
    return told if isinstance(told, dict) else {}


def _unpack(folder: Path) -> int:
    """Unpack by www-data, whose files they are: whatever a name in it says, nothing else can be written."""
    with PACKED.open("rb") as packed:
        return subprocess.run(
            ["tar", "-xz", "-f", "-", "--no-same-owner", "--strip-components=1", "-C", str(folder), "prod"],
            stdin=packed, capture_output=True, user="www-data", group="www-data", extra_groups=[], cwd="/",
            env=ENVIRONMENT, timeout=300,
        ).returncode  # fmt: skip
