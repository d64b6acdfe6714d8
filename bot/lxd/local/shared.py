"""What all servers of this machine share: the kernel's limits, lxcfs, and veth pairs that nothing uses."""

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
"""The folder for the bot's own servers on this machine."""
LXCFS = Path("/var/lib/lxcfs")
LXCFS_PID = HOME / "lxcfs.pid"
_LIMITS_BEFORE = HOME / "limits.json"
_LIMITS = {
    # Keys and watches are counted for all containers together, since they share one range of user IDs.
    "kernel/keys/maxkeys": 20_000,
    "kernel/keys/maxbytes": 20_000_000,
    "fs/inotify/max_user_instances": 65_536,
    "fs/inotify/max_user_watches": 1_048_576,
    "fs/inotify/max_queued_events": 1_048_576,
    "fs/aio-max-nr": 524_288,
    "vm/max_map_count": 262_144,
}


def raise_limits(progress: Progress) -> None:
    """Raise the kernel's limits that a hundred containers run into; store the previous ones for `restore_limits`."""
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
        # The values that were stored first win: later ones are already the bot's.
        _LIMITS_BEFORE.write_text(json.dumps(before | _limits_before()))


def _limits_before() -> dict[str, int]:
    found: dict[str, int] = json.loads(_LIMITS_BEFORE.read_text()) if _LIMITS_BEFORE.exists() else {}
    return found


def restore_limits() -> None:
    """Restore the kernel's limits that `raise_limits` found, where the bot's values are still set."""
    for name, before in _limits_before().items():
        path = Path("/proc/sys", name)
        with suppress(OSError):
            if int(path.read_text()) == _LIMITS.get(name):
                path.write_text(str(before))
    _LIMITS_BEFORE.unlink(missing_ok=True)


def start_lxcfs(log_file: Path, progress: Progress) -> None:
    """Start lxcfs unless it already runs: without it tenants see the memory and CPUs of the whole machine."""
    program = shutil.which("lxcfs", path=packages.path())
    if program is None or not Path("/dev/fuse").exists():
        progress("lxcfs cannot run here; tenants will see the whole machine's memory")
        return
    if _lxcfs_serves():
        return
    # An lxcfs that was killed leaves its mount, which nobody can enter.
    subprocess.run(["umount", "--lazy", str(LXCFS)], check=False, capture_output=True)
    LXCFS.mkdir(exist_ok=True)
    own_file = LXCFS_PID.with_suffix(".run")
    with log_file.open("ab") as log:
        # The pid file is not at its default path, which belongs to the distribution's service.
        lxcfs = subprocess.Popen(
            [program, "--foreground", f"--pidfile={own_file}", str(LXCFS)],
            # It serves all servers here, and so gets no server's environment.
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
    """Return whether an lxcfs that the bot started no longer serves."""
    return LXCFS_PID.exists() and not _lxcfs_serves()


def _lxcfs_serves() -> bool:
    with suppress(OSError):
        return bool((LXCFS / "proc" / "meminfo").read_bytes())
    return False


def stop_lxcfs() -> None:
    """Stop the lxcfs that the bot started."""
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
    """Return whether any LXD or Incus runs on this machine.

    Its containers need what all servers share: lxcfs and the raised limits.
    """
    for path in Path("/proc").glob("[0-9]*/comm"):
        with suppress(OSError):
            # A process that has ended, but that its parent has not reaped yet, has no command line.
            if path.read_text().strip() in ("lxd", "incusd") and path.with_name("cmdline").read_bytes():
                return True
    return False


def remove_unused_veths() -> None:
    """Remove the veth pairs of containers that never started.

    Both ends of such a pair are still on the host, and neither is attached to a bridge.
    """
    links = {path.name: path for path in Path("/sys/class/net").glob("veth*")}
    with suppress(OSError):
        numbers = {(path / "ifindex").read_text(): name for name, path in links.items()}
        for name, path in links.items():
            other = numbers.get((path / "iflink").read_text(), "")
            plugged = any((links[end] / "master").exists() for end in (name, other) if end)
            # The container's end has a MAC with the prefix of LXD or Incus.
            if other and not plugged and (path / "address").read_text().startswith(("00:16:3e", "10:66:6a")):
                quietly("ip", "link", "delete", name)
