"""What the bot's own daemon made in the kernel and on the disk: taken away, in whatever state it is."""

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
"""Seconds that the cables of stopped containers may take to go."""


def take_away(folder: Path) -> None:
    """End the own daemon and all that it started, and remove all that it made in the kernel and in its folder."""
    instances = [path.name for kind in ("containers", "logs") for path in folder.glob(f"{kind}/*")]
    if (pid := pid_of(folder)) is not None:
        end_all([pid])
    end_the_rest(folder)
    # What still serves is of another checkout's bot, which calls its bridge and its tenants the same.
    others = _served()
    networks = {path.name for path in folder.glob("networks/*")} - others
    unmount(folder)
    for device in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            if device.read_text().startswith(f"{folder}/"):
                quietly("losetup", "--detach", f"/dev/{device.parent.parent.name}")
    for name in networks:
        # The kernel takes a cable away with the container at its other end, but not at once.
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
    """End what the own daemon started and left: containers, dnsmasq, proxies."""
    monitors = processes(folder)
    # Their children are the containers' first processes, which outlive them; with these all of a container ends.
    end_all([*monitors, *(pid for pid, parent in parents().items() if parent in monitors)])


def wait_for_cables(folder: Path) -> None:
    """Wait until the kernel has taken away the cables of stopped containers, for some seconds at most.

    It does so after they have ended, and a server that starts meanwhile may fail over one that vanishes.
    """
    bridges = [Path("/sys/class/net", path.name, "brif") for path in folder.glob("networks/*")]
    give_up = time.monotonic() + CABLES
    while any(cable for bridge in bridges for cable in bridge.glob("*")) and time.monotonic() < give_up:
        time.sleep(0.05)


def unmount(folder: Path) -> None:
    """Unmount all that is mounted in the folder of the own daemon."""
    mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in reversed(mounts):
        if mount.startswith(f"{folder}/"):
            subprocess.run(["umount", "--lazy", mount], check=False, capture_output=True)


def _served() -> set[str]:
    """The bridges and running instances of the servers in this network, by the dnsmasq or monitor that each has."""
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
    """Remove the control groups that instances left, the inner ones first; those of others come and go meanwhile."""
    for group, _, _ in os.walk("/sys/fs/cgroup", topdown=False):
        if any(part.startswith("lxc.") and part.rpartition(".")[2] in instances for part in group.split("/")):
            with suppress(OSError):
                os.rmdir(group)


def _forget_rules(networks: set[str], instances: set[str]) -> None:
    """Remove what a firewall still has of networks and instances; LXD and Incus name their chains after them."""
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
        # Emptied first, since they lead to each other.
        for doing in ("flush", "delete"):
            for chain in ours:
                quietly("nft", doing, "chain", *chain)


def fill_gaps(path: str, project: str, pool: str) -> None:
    """Give instances without a volume an empty one, since LXD deletes no other; on btrfs only a folder is there.

    It leaves such a one when it is killed while it copies. `path`: its socket, on this machine.
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
                # What is in it LXD wrote there beside the volume that it was about to make.
                shutil.rmtree(volume)
                quietly("btrfs", "subvolume", "create", str(volume))
