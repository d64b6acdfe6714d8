"""Removes what the bot's own daemon made in the kernel and on the disk, in whatever state the daemon is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from bot.lxd import packages
from bot.lxd.local.daemon import pid_of, processes
from bot.lxd.local.processes import end_all, parents, quietly
from bot.lxd.pool_folder import is_subvolume, of_pool

CABLES = 5.0
"""Seconds that the veth interfaces of stopped containers may take to disappear."""


def take_away(folder: Path) -> None:
    """End the bot's own daemon and all that it started, and remove all that it made.

    That is what it made in the kernel and in its folder, with its log and pid file.
    """
    instances = [path.name for kind in ("containers", "logs") for path in folder.glob(f"{kind}/*")]
    if (pid := pid_of(folder)) is not None:
        end_all([pid])
    end_the_rest(folder)
    # What still serves belongs to the bot of another checkout, whose bridge and tenants have the same names.
    others = _served()
    networks = {path.name for path in folder.glob("networks/*")} - others
    unmount(folder)
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if device.read_text().startswith(f"{folder}/"):
                quietly("losetup", "--detach", f"/dev/{device.parent.parent.name}")
    for name in networks:
        # The kernel removes a veth interface with the container at its other end, but not at once.
        cables = [path.name for path in Path("/sys/class/net", name, "brif").glob("*")]
        for link in (*cables, name):
            if Path("/sys/class/net", link).exists():
                quietly("ip", "link", "delete", link)
    _forget_rules(networks, set(instances) - others)
    _forget_groups({one for one in instances if "_" in one})
    if folder.exists():
        shutil.rmtree(folder)
    for suffix in (".log", ".pid"):
        folder.with_suffix(suffix).unlink(missing_ok=True)


def end_the_rest(folder: Path) -> None:
    """End what the bot's own daemon started and left: containers, dnsmasq, proxies."""
    monitors = processes(folder)
    # The monitors' children are the init processes of containers, which outlive them; a container ends with its init.
    end_all([*monitors, *(pid for pid, parent in parents().items() if parent in monitors)])


def wait_for_veths(folder: Path) -> None:
    """Wait until the kernel has removed the veth interfaces of stopped containers, for CABLES seconds at most.

    The kernel removes them after the containers have ended. A server that starts meanwhile may fail over one that
    vanishes.
    """
    bridges = [Path("/sys/class/net", path.name, "brif") for path in folder.glob("networks/*")]
    give_up = time.monotonic() + CABLES
    while any(cable for bridge in bridges for cable in bridge.glob("*")) and time.monotonic() < give_up:
        time.sleep(0.05)


def unmount(folder: Path) -> None:
    """Unmount everything that is mounted in the folder of the bot's own daemon."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _served() -> set[str]:
    """Return the bridges and running instances of the servers in this network namespace.

    Each bridge has a dnsmasq, and each running instance a monitor.
    """
    here = os.readlink("/proc/self/ns/net")
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_text(errors="replace").rstrip("\0").replace("\0", " ").split(" ")
            if Path(words[0]).name not in ("dnsmasq", "[lxc") or os.readlink(path.with_name("ns") / "net") != here:
                continue
            if words[0] == "[lxc":
                found.add(words[-1])
            else:
                found |= {word.removeprefix("--interface=") for word in words if word.startswith("--interface=")}
    return found


def _forget_groups(instances: set[str]) -> None:
    """Remove the control groups that instances left, the inner ones first.

    Groups of other instances come and go meanwhile.
    """
    for group, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if any(part.startswith("lxc.") and part.rpartition(".")[2] in instances for part in group.split("/")):
            with suppress(OSError):
                os.rmdir(group)


def _forget_rules(networks: set[str], instances: set[str]) -> None:
    """Remove the firewall's chains of networks and instances; LXD and Incus name their chains after them."""
    with suppress(OSError, ValueError):
        listed = subprocess.run(
            ["nft", "--json", "list", "chains"],
            env={**os.environ, "PATH": packages.path()},
            capture_output=True,
            check=False,
        )
        chains = [entry["chain"] for entry in json.loads(listed.stdout)["nftables"] if "chain" in entry]
        ours = []
        for chain in chains:
            of = chain["name"].partition(".")[2]
            if chain["table"] in ("lxd", "incus") and (of in networks or of.partition(".")[0] in instances):
                ours.append((chain["family"], chain["table"], chain["name"]))
        # Flush them first, since they refer to each other.
        for doing in ("flush", "delete"):
            for chain in ours:
                quietly("nft", doing, "chain", *chain)


def create_missing_volumes(path: str, project: str, pool: str) -> None:
    """Give instances without a volume an empty one, since LXD deletes no others.

    On btrfs such an instance has only a folder. LXD leaves it so when it is killed during a copy. `path`: the server's
    socket, on this machine.
    """
    folder = of_pool(path, pool)
    if folder is None:
        return
    with suppress(OSError):
        if not is_subvolume(folder):
            return
        for volume in (
            *folder.glob(f"containers/{project}_*"),
            *folder.glob(f"containers-snapshots/{project}_*/*"),
        ):
            if not is_subvolume(volume):
                # LXD wrote what is in it while it was about to make the volume.
                shutil.rmtree(volume)
                quietly("btrfs", "subvolume", "create", str(volume))
