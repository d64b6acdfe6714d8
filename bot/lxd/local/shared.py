"""What all servers of this machine share: the kernel's limits, lxcfs, and cables that nobody plugged in."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from bot.lxd import packages
from bot.lxd.local.processes import end_all, quietly

Progress = Callable[[str], None]

HOME = Path("/var/lib/mautic-ops")
"""What the bot keeps of servers on this machine."""
LXCFS = Path("/var/lib/lxcfs")
LXCFS_PID = HOME / "lxcfs.pid"
_LIMITS_BEFORE = HOME / "limits.json"
_LIMITS = {
    # Keys and watches are counted for all containers together, since they share one range of user ids.
    "kernel/keys/maxkeys": 20_000,
    "kernel/keys/maxbytes": 20_000_000,
    "fs/inotify/max_user_instances": 65_536,
    "fs/inotify/max_user_watches": 1_048_576,
    "fs/inotify/max_queued_events": 1_048_576,
    "fs/aio-max-nr": 524_288,
    "vm/max_map_count": 262_144,
}


def raise_limits(progress: Progress) -> None:
    """Raise the kernel's limits that a hundred containers run into; note the former ones for `remove`."""
    before: dict[str, int] = {}
    for name, wanted in _LIMITS.items():
        path = Path("/proc/sys", name)
        try:
            now = int(path.read_text())
            if now < wanted:
                path.write_text(str(wanted))
                before[name] = now
        except OSError:
            progress(f"cannot raise {name.replace('/', '.')}; more than about 60 tenants may not start")
    if before and HOME.exists():
        # Those of the first time count: later ones are already ours.
        _LIMITS_BEFORE.write_text(json.dumps(before | _limits_before()))


def _limits_before() -> dict[str, int]:
    found: dict[str, int] = json.loads(_LIMITS_BEFORE.read_text()) if _LIMITS_BEFORE.exists() else {}
    return found


def restore_limits() -> None:
    """Give the kernel the limits back that `raise_limits` found, where they are still ours."""
    for name, before in _limits_before().items():
        path = Path("/proc/sys", name)
        with suppress(OSError):
            if int(path.read_text()) == _LIMITS.get(name):
                path.write_text(str(before))
    _LIMITS_BEFORE.unlink(missing_ok=True)


def start_lxcfs(log_file: Path, progress: Progress) -> None:
    """Start lxcfs when nobody did: without it tenants see the memory and CPUs of the whole machine."""
    program = shutil.which("lxcfs", path=packages.path())
    if program is None or not Path("/dev/fuse").exists():
        progress("lxcfs cannot run here; tenants will see the whole machine's memory")
        return
    if _lxcfs_serves():
        return
    # One that was killed leaves its mount, which nobody can enter.
    subprocess.run(["umount", "--lazy", str(LXCFS)], check=False, capture_output=True)
    LXCFS.mkdir(exist_ok=True)
    own_file = LXCFS_PID.with_suffix(".run")
    with log_file.open("ab") as log:
        # With a pid file elsewhere than its default, which is the distribution's service's.
        lxcfs = subprocess.Popen(
            [program, "--foreground", f"--pidfile={own_file}", str(LXCFS)],
            # Of all servers here, and so of none's environment.
            env={"PATH": packages.path()},
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    LXCFS_PID.write_text(str(lxcfs.pid))
    end = time.monotonic() + 5
    while not _lxcfs_serves() and lxcfs.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    own_file.unlink(missing_ok=True)
    if lxcfs.poll() is None:
        lxcfs.returncode = 0


def lxcfs_died() -> bool:
    """Whether there was one that we started."""
    return LXCFS_PID.exists() and not _lxcfs_serves()


def _lxcfs_serves() -> bool:
    with suppress(OSError):
        return bool((LXCFS / "proc" / "meminfo").read_bytes())
    return False


def stop_lxcfs() -> None:
    """End the lxcfs that we started."""
    try:
        pid = int(LXCFS_PID.read_text())
        ours = b"lxcfs" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        ours = False
    if ours:
        end_all([pid])
        subprocess.run(["umount", "--lazy", str(LXCFS)], check=False, capture_output=True)
    LXCFS_PID.unlink(missing_ok=True)


def another_server() -> bool:
    """Whether any LXD or Incus runs on this machine: its containers need what all share, lxcfs and raised limits."""
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            # One that has ended, and that its parent has not asked after yet, has no command line.
            if path.read_text().strip() in ("lxd", "incusd") and path.with_name("cmdline").read_bytes():
                return True
    return False


def remove_loose_cables() -> None:
    """Remove the cables of containers that never started: both ends are still here, and neither is plugged in."""
    links = {path.name: path for path in Path("/sys/class/net").glob("veth*")}
    with suppress(OSError):
        numbers = {(path / "ifindex").read_text(): name for name, path in links.items()}
        for name, path in links.items():
            other = numbers.get((path / "iflink").read_text(), "")
            plugged = any((links[end] / "master").exists() for end in (name, other) if end)
            # Their end has an address as LXD and Incus give them.
            if other and not plugged and (path / "address").read_text().startswith(("00:16:3e", "10:66:6a")):
                quietly("ip", "link", "delete", name)
