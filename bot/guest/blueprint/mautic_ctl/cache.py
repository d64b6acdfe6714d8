"""`warm`, `pack_cache`, `lay_cache`: builds Mautic's compiled cache, or carries it over from a copy that has built it.

Building it takes Mautic more than ten seconds, during which nobody would be served. A cache holds for one version of
Mautic and of PHP, one set of plugins, one scheme, and the part of the configuration that is compiled in. With other
code it breaks every page and every command.
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
"""Bytes of a packed cache at most; Mautic's own has two or three million."""
BUILT = "var/cache/prod"
RUN_TIME = ("local.php", "parameters_local.php")
"""The PHP files in `config` that each request reads; all others are compiled in."""
LARGEST = 1 << 20
"""Bytes of a compiled-in file that are compared at most; Mautic's own have some thousands."""
CARRIED = "var/cache/of.json"
"""The file beside a cache that was carried over; it says what the cache was built from, as `cache_of` does."""
LABEL = "of.json"
"""The first file of a packed cache; it says what the cache was built from, as `cache_of` does."""


def warm(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Rebuild the cache of the serving tree; the old cache is deleted first, as other code cannot clear it."""
    trees.must_be_closed()
    began = time.monotonic()
    (MAUTIC / CARRIED).unlink(missing_ok=True)
    empty(MAUTIC / BUILT)
    ended = console("cache:clear")
    if ended.returncode:
        raise CtlError(f"cache:clear ended with {ended.returncode}: {words_of(ended)}")
    return {"seconds": round(time.monotonic() - began, 3)}


def pack_cache(_request: Mapping[str, Any]) -> dict[str, Any]:
    """Pack the cache of the serving tree, with what it was built from; return {bytes, tar (base64)}.

    Raises CtlError if there is no cache, or it is larger than MOST.
    """
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
    """Unpack a pushed cache into the staged tree; raises CtlError if it was built from anything else than that tree."""
    if not trees.staged_version():
        raise CtlError("nothing is staged that a cache could be laid into")
    wanted = cache_of(NEXT, trees.read_listing(NEXT_LISTING))
    told = _label()
    # A cache that an earlier version of the bot packed has no entry for the configuration.
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
    """Return whether the cache of the serving tree was carried over and still fits that tree."""
    told = read_json(MAUTIC / CARRIED)
    return bool(told) and told == cache_of(MAUTIC, trees.read_listing(LISTING))


def cache_of(tree: Path, release: Mapping[str, str]) -> dict[str, str]:
    """Return what a tree's cache is built from.

    That is: the versions of Mautic and PHP, the client's own plugins, the scheme of the tenant's address, and the part
    of the client's configuration that is compiled in. `release`: the files that the tree's release brought. The
    configuration is read from the serving tree.
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
    """Return a digest of what Mautic compiles in of a client's configuration, "" if that is a new Mautic's.

    Compiled in are `api_rate_limiter_*` and `db_host_ro` in app/config/config.php, and the files that AppKernel and
    config_prod.php include: `config_local.php`, `config_override.php`, `security_local.php`, `bundles_local.php`.
    """
    told: dict[str, Any] = {}
    for path in sorted(folder.glob("*.php")):
        # www-data owns this folder and could put anything of any size under such a name.
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
    """Unpack as www-data, the files' owner, and return tar's exit code; no name in it can then reach other files."""
    with PACKED.open("rb") as packed:
        return subprocess.run(
            ["tar", "-xz", "-f", "-", "--no-same-owner", "--strip-components=1", "-C", str(folder), "prod"],
            stdin=packed, capture_output=True, user="www-data", group="www-data", extra_groups=[], cwd="/",
            env=ENVIRONMENT, timeout=300,
        ).returncode  # fmt: skip
