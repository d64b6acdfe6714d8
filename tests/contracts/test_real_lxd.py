"""What only a real server can show: isolation, deadlines, a full pool, leftovers, certificates."""

from __future__ import annotations

import base64
import ipaddress
import json
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from bot.engine import quotas
from bot.fleet.inventory import Fleet
from bot.lxd.gateway import LxdGateway
from bot.lxd.products import INCUS
from bot.lxd.protocol import AlreadyExists, LxdError, LxdUnavailable, NotFound, PoolFull, TenantAnswerError
from bot.lxd.wire import NIC
from bot.model.forms import lxd_bytes
from tests.support.certificates import fingerprint, self_signed
from tests.support.pools import mark_inconsistent
from tests.support.real_lxd import PROJECT, TINY, Place, listening
from tests.support.workspace import eventually

Name = Callable[[], str]

FETCH = "printf 'GET /hostname HTTP/1.0\\r\\n\\r\\n' | timeout 2 nc {} 80 | tail -n 1"


@contextmanager
def _requests(lxd: LxdGateway) -> Iterator[list[str]]:
    """Yield a list of every request that the gateway makes meanwhile."""
    made: list[str] = []

    def note(response: Any, *_: Any, **__: Any) -> None:
        made.append(f"{response.request.method} {response.request.path_url}")

    hooks = lxd.connection.connected().api.session.hooks["response"]
    hooks.append(note)
    yield made
    hooks.remove(note)


def _started(lxd: LxdGateway, name: str, devices: dict[str, dict[str, str]] | None = None) -> str:
    """Create and start a tiny instance; return its address once it has one."""
    lxd.create(name, TINY, config={}, devices=devices or {})
    lxd.start(name)
    end = time.monotonic() + 60
    while not (address := lxd.state(name).address):
        assert time.monotonic() < end, f"{name} got no address"
        time.sleep(0.05)
    return address


def _reaches(lxd: LxdGateway, source: str, address: str, target: str) -> bool:
    return lxd.execute(source, ["sh", "-c", FETCH.format(address)]).stdout.strip() == target


class TestIsolation:
    @pytest.fixture
    def address(self, place: Place) -> str:
        """Below the tenants' range like the edge's own, which another test may be using at this moment."""
        return str(ipaddress.IPv4Interface(place.subnet).ip + 8)

    @pytest.fixture
    def edge(self, lxd: LxdGateway, new_name: Name, place: Place, address: str) -> str:
        """An instance with the edge's port: not isolated, at an address that no tenant gets."""
        edge = new_name()
        port = {
            "type": "nic",
            "name": "eth0",
            "network": place.network,
            "ipv4.address": address,
            "security.mac_filtering": "true",
            "security.ipv4_filtering": "true",
        }
        assert _started(lxd, edge, {"eth0": port}) == address
        return edge

    def test_the_edge_reaches_every_tenant_and_no_tenant_reaches_another(
        self, lxd: LxdGateway, new_name: Name, place: Place, edge: str, address: str
    ) -> None:
        one, two = new_name(), new_name()
        address_one, address_two = _started(lxd, one), _started(lxd, two)
        assert eventually(lambda: _reaches(lxd, edge, address_one, one))
        assert eventually(lambda: _reaches(lxd, edge, address_two, two))
        assert eventually(lambda: _reaches(lxd, one, address, edge))
        assert not _reaches(lxd, one, address_two, two)

        # The detour: by the host, which would route it back onto the bridge.
        gateway = place.subnet.partition("/")[0]
        dns = f"nc -w 2 {gateway} 53 < /dev/null"
        assert eventually(lambda: lxd.execute(one, ["sh", "-c", dns]).code == 0)
        lxd.execute(one, ["ip", "route", "add", f"{address_two}/32", "via", gateway])
        lxd.execute(two, ["ip", "route", "add", f"{address_one}/32", "via", gateway])
        assert not _reaches(lxd, one, address_two, two)

        # In disguise: with the address of the edge.
        lxd.stop(edge, force=True)
        lxd.execute(one, ["ip", "address", "add", f"{address}/24", "dev", "eth0"])
        assert lxd.execute(one, ["sh", "-c", dns]).code == 0
        assert lxd.execute(one, ["sh", "-c", dns.replace("-w 2", f"-w 2 -s {address}")]).code != 0


class TestSnapshots:
    def test_writes_do_not_wait_while_lxd_walks_through_all_files(self, real_lxd: LxdGateway, real_name: Name) -> None:
        lxd, name = real_lxd, real_name()
        # LXD reports sizes of snapshots only once some disk has a limit.
        root = {"type": "disk", "path": "/", "pool": PROJECT, "size": "5GiB"}
        _started(lxd, name, {"root": root})
        many = "mkdir /root/many && cd /root/many && seq 60000 | xargs touch && sync"
        assert lxd.execute(name, ["sh", "-c", many]).code == 0
        going_on: list[str] = []

        @contextmanager
        def within() -> Iterator[None]:
            yield
            # LXD lists the operations of the project by their state.
            going_on.extend(lxd.connection.get("operations", "list the operations").get("running", []))

        # Several times: on a busy machine the bot may see the copy only once LXD is through with the files.
        for number in range(5):
            lxd.snapshot(name, f"taken-{number}", within=within())
        assert going_on


class TestDeadlines:
    def test_a_command_that_takes_too_long_fails_in_time(self, lxd: LxdGateway, new_name: Name) -> None:
        name = new_name()
        _started(lxd, name)
        with pytest.raises(LxdUnavailable, match=r"did not run `sleep` in .* within 1 seconds\."):
            lxd.execute(name, ["sleep", "60"], timeout=1)

    def test_a_command_may_take_longer_than_one_request(self, lxd: LxdGateway, new_name: Name) -> None:
        name = new_name()
        _started(lxd, name)
        patient = LxdGateway(lxd.endpoint, project=PROJECT, pool=PROJECT, profile=PROJECT, timeout=3)
        assert patient.execute(name, ["sh", "-c", "sleep 4; echo done"]).stdout == "done\n"

    @pytest.mark.parametrize("script", ["sleep 60", "while printf x; do sleep 0.1; done", "exec >&-; sleep 60"])
    def test_a_talk_ends_in_time_whatever_comes(self, lxd: LxdGateway, new_name: Name, script: str) -> None:
        name = new_name()
        _started(lxd, name)
        with (
            lxd.talk(name, ["sh", "-c", script], timeout=1, limit=1000) as talk,
            pytest.raises(TenantAnswerError, match=f"`{name}` did not answer within 1 seconds|no answer"),
        ):
            talk.line()


class TestFiles:
    def test_a_path_that_is_no_file_or_too_large_is_not_read(self, lxd: LxdGateway, new_name: Name) -> None:
        name = new_name()
        _started(lxd, name)
        assert lxd.execute(name, ["dd", "if=/dev/zero", "of=/root/much", "bs=1", "count=1", "seek=999999999"]).code == 0
        with pytest.raises(LxdError, match="more than 64 MiB"):
            lxd.pull(name, "/root/much")
        assert lxd.execute(name, ["ln", "-s", "/root/much", "/root/link"]).code == 0
        for path in ("/root", "/root/link"):
            with pytest.raises(LxdError, match="it is no file"):
                lxd.pull(name, path)


class TestWhatStaysBehind:
    @pytest.mark.parametrize("command", [["sleep", "61"], ["cat", "/dev/zero"]])
    def test_a_talk_leaves_nothing_behind(self, lxd: LxdGateway, new_name: Name, command: list[str]) -> None:
        name = new_name()
        _started(lxd, name)
        with (
            suppress(TenantAnswerError),
            lxd.talk(name, command, timeout=1, limit=1 << 20) as talk,
        ):
            talk.line()
        words = " ".join(command)
        eventually(lambda: words not in lxd.execute(name, ["ps"]).stdout)
        eventually(lambda: not lxd.connection.under_way("Executing command", name, "look"))
        assert [log for log in lxd.connection.get(f"instances/{name}/logs", "list the logs") if "exec_" in log] == []

    def test_no_output_of_commands_stays_on_the_host(self, lxd: LxdGateway, new_name: Name, place: Place) -> None:
        name = new_name()
        _started(lxd, name)
        lxd.execute(name, ["echo", "hello"])
        with pytest.raises(LxdUnavailable):
            lxd.execute(name, ["sh", "-c", "echo hello; sleep 60"], timeout=1)
        logs = lxd.connection.get(f"instances/{name}/logs", "list the logs")
        if place.product is INCUS:
            logs += lxd.connection.get(f"instances/{name}/logs/exec-output", "list the outputs")
        assert [log for log in logs if "exec_" in log] == []

    def test_output_of_a_command_whose_bot_was_killed_is_swept(
        self, lxd: LxdGateway, new_name: Name, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = new_name()
        _started(lxd, name)
        killed = LxdGateway(lxd.endpoint, project=PROJECT, pool=PROJECT, profile=PROJECT)
        monkeypatch.setattr(killed.connection, "operation", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        request = killed.connection.request
        monkeypatch.setattr(
            killed.connection, "request", lambda verb, *it, **more: verb == "delete" or request(verb, *it, **more)
        )
        with pytest.raises(KeyboardInterrupt):
            killed.execute(name, ["echo", "a secret"])

        def outputs() -> list[str]:
            logs: list[str] = []
            for folder in ("logs", "logs/exec-output"):
                with suppress(LxdError):
                    logs += lxd.connection.get(f"instances/{name}/{folder}", "list the logs")
            return [log for log in logs if "exec_" in log]

        assert eventually(outputs)
        with ThreadPoolExecutor(1) as thread:
            long = thread.submit(lxd.execute, name, ["sh", "-c", "sleep 8; echo done"])
            lxd.sweep()
            assert long.result().stdout == "done\n"
        assert outputs() == []

    def test_a_full_pool_is_reported_and_can_be_removed_without_a_trace(self, lxd: LxdGateway, place: Place) -> None:
        other = "mautic-ops-full"
        network, subnet = place.other
        small = LxdGateway(lxd.endpoint, project=other, pool=other, network=network, profile=other)
        try:
            small.ensure_project(pool_driver="btrfs", pool_size="256MiB", subnet=subnet)
            small.import_image(str(place.folder / "tiny.tar.gz"), TINY, {})
            small.create("full", TINY, config={}, devices={})
            with pytest.raises(PoolFull, match=f"`{other}`"):
                small.push("full", "/root/much", secrets.token_bytes(300_000_000))
        finally:
            small.remove_project()
        for kind in ("projects", "storage-pools", "networks", "network-acls"):
            assert not [
                path for path in small.connection.get(kind, "list", project=False) if "full" in path or network in path
            ]
        assert not Path("/sys/class/net", network).exists()

    def test_making_the_project_again_changes_nothing(self, lxd: LxdGateway, place: Place) -> None:
        before = lxd.connection.get(f"networks/{place.network}", "read", project=False)["config"]
        with _requests(lxd) as made:
            lxd.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet="10.99.0.1/24")
        assert {request.split()[0] for request in made} == {"GET"}
        assert lxd.connection.get(f"networks/{place.network}", "read", project=False)["config"] == before

    def test_a_bridge_of_somebody_else_is_not_taken_over(self, lxd: LxdGateway, place: Place) -> None:
        somebodys = LxdGateway(lxd.endpoint, project=PROJECT, pool=PROJECT, network="lo", profile=PROJECT)
        with pytest.raises(AlreadyExists, match=f"that is not this {place.product.name}'s"):
            somebodys.ensure_project(pool_driver="btrfs", pool_size="1GiB", subnet="10.99.0.1/24")


def test_a_server_is_called_by_its_product(lxd: LxdGateway, place: Place) -> None:
    assert lxd.server().product == place.product.name
    with pytest.raises(NotFound, match=f"^{place.product.name} could not read `nobody`: .*nstance not found"):
        lxd.instance("nobody")


@pytest.mark.parametrize(
    "text",
    ["3GiB", "3000MB", "512MiB", "3221225472", "4000000kB", "1TiB", "2G", "2g", "2gib", "2KB", "1.5GiB", "2 GiB"],
)
def test_a_plan_may_have_exactly_the_sizes_that_the_server_accepts(lxd: LxdGateway, new_name: Name, text: str) -> None:

    refused = ours = False
    try:
        lxd_bytes(text)
    except ValueError:
        ours = True
    try:
        lxd.create(new_name(), TINY, config={"limits.memory": text}, devices={})
    except LxdError:
        refused = True
    assert refused == ours


class TestRequests:
    def test_a_fleet_is_listed_in_one_request_and_measured_in_another(self, lxd: LxdGateway, new_name: Name) -> None:
        for _ in range(3):
            lxd.create(new_name(), TINY, config={}, devices={})
        with _requests(lxd) as made:
            assert len(lxd.instances()) >= 3
            assert len(lxd.states()) >= 3
        assert len(made) == 2

    def test_an_update_that_changes_nothing_writes_nothing(self, lxd: LxdGateway, new_name: Name) -> None:
        name = new_name()
        lxd.create(name, TINY, config={"user.a": "1"}, devices={})
        with _requests(lxd) as made:
            lxd.update(name, {"user.a": "1", "user.b": None}, {"none": None})
        assert len(made) == 1

    def test_an_update_survives_a_change_by_somebody_else(
        self, lxd: LxdGateway, new_name: Name, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        name = new_name()
        lxd.create(name, TINY, config={}, devices={})
        other = LxdGateway(lxd.endpoint, project=PROJECT, pool=PROJECT, profile=PROJECT)
        mine = LxdGateway(lxd.endpoint, project=PROJECT, pool=PROJECT, profile=PROJECT)
        ask = mine.connection.request

        def between(verb: str, path: str, doing: str, **arguments: Any) -> Any:
            answer = ask(verb, path, doing, **arguments)
            if verb == "get":
                monkeypatch.setattr(mine.connection, "request", ask)
                other.update(name, {"user.other": "1"}, {"none": {"type": "none"}})
            return answer

        monkeypatch.setattr(mine.connection, "request", between)
        mine.update(name, {"user.mine": "1"}, {"gone": None})
        instance = lxd.instance(name)
        assert (instance.config["user.mine"], instance.config["user.other"]) == ("1", "1")
        assert sorted(instance.devices) == [NIC, "none"]


class TestHttps:
    @pytest.fixture
    def address(self, lxd: LxdGateway, place: Place) -> Iterator[str]:
        """The server's address on this machine, where it listens during the test."""
        with listening(lxd, place) as address:
            yield address

    @pytest.fixture
    def stranger(self, lxd: LxdGateway, tmp_path: Path) -> Iterator[tuple[str, str]]:
        """A client certificate and its key; the server forgets it after the test."""
        certificate, key = self_signed(tmp_path, "mautic-ops tests")
        yield str(certificate), str(key)
        lxd.connection.request("delete", f"certificates/{fingerprint(certificate)}", "distrust", project=False)

    @pytest.fixture
    def certificate(self, lxd: LxdGateway, stranger: tuple[str, str]) -> tuple[str, str]:
        """A client certificate and its key that the server trusts."""
        pem = Path(stranger[0]).read_text()
        body = {"type": "client", "name": "tests", "certificate": "".join(pem.splitlines()[1:-1])}
        lxd.connection.request("post", "certificates", "trust", json=body, project=False)
        return stranger

    @pytest.fixture
    def pinned(self, lxd: LxdGateway, tmp_path: Path) -> str:
        """The server's own certificate, in a file."""
        found = lxd.connection.get("", "read", project=False)["environment"]["certificate"]
        (tmp_path / "server.crt").write_text(found)
        return str(tmp_path / "server.crt")

    def test_a_remote_server_is_recognised_by_its_certificate(
        self,
        lxd: LxdGateway,
        new_name: Name,
        address: str,
        certificate: tuple[str, str],
        pinned: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/hostname")
        remote = LxdGateway(address, project=PROJECT, pool=PROJECT, certificate=certificate, server_certificate=pinned)
        assert remote.server() == lxd.server()
        name = new_name()
        lxd.create(name, "tiny", config={}, devices={})
        assert remote.instance(name) == lxd.instance(name)
        lxd.start(name)
        with remote.talk(name, ["sh", "-c", "read a; echo $a; read more"], limit=1000) as talk:
            talk.send(b"hello\n")
            assert talk.line() == b"hello"

    def test_the_advice_for_a_pool_on_another_machine_makes_it_count_again(
        self, lxd: LxdGateway, new_name: Name, address: str, certificate: tuple[str, str], pinned: str
    ) -> None:
        remote = LxdGateway(address, project=PROJECT, pool=PROJECT, certificate=certificate, server_certificate=pinned)
        name = new_name()
        root = {"type": "disk", "path": "/", "pool": PROJECT, "size": "64MiB"}
        lxd.create(name, TINY, config={}, devices={"root": root})
        lxd.start(name)
        mark_inconsistent(lxd, name)
        (host,) = Fleet({"far": remote}).hosts()
        (said,) = quotas.mend(PROJECT, [(host, name)], quotas.ask([(host, name)]))
        assert "its server is on another machine. Run `btrfs quota rescan -w /" in said
        (command,) = re.findall(r"`(btrfs [^`]+)`", said)
        subprocess.run(command.split(), check=True, capture_output=True)
        assert quotas.mend(PROJECT, [(host, name)], quotas.ask([(host, name)])) == []

    def test_a_token_makes_the_bot_trusted(
        self, lxd: LxdGateway, address: str, stranger: tuple[str, str], pinned: str
    ) -> None:
        """A token as `lxc config trust add` and `incus config trust add` print it, sent as in the README."""
        asked = {"type": "client", "name": "bot", "token": True}
        answer = lxd.connection.json("post", "certificates", "make a token", json=asked, project=False)
        made = answer["metadata"]["metadata"]
        parts = {
            "client_name": made["request"]["name"],
            **{key: made[key] for key in ("fingerprint", "addresses", "secret", "expires_at") if key in made},
        }
        token = base64.b64encode(json.dumps(parts).encode()).decode()
        body = json.dumps({"type": "client", "name": "mautic-ops", "trust_token": token, "password": token})
        who = ["--insecure", "--cert", stranger[0], "--key", stranger[1]]
        sent = ["curl", "--silent", "--fail", *who, "--data", "@-", f"{address}/1.0/certificates"]
        subprocess.run(sent, input=body, text=True, check=True)
        remote = LxdGateway(address, project=PROJECT, certificate=stranger, server_certificate=pinned)
        assert remote.server() == lxd.server()

    def test_another_servers_certificate_is_refused(self, address: str, certificate: tuple[str, str]) -> None:
        remote = LxdGateway(address, certificate=certificate, server_certificate=certificate[0])
        with pytest.raises(LxdUnavailable, match="another certificate"):
            remote.server()
        with pytest.raises(LxdUnavailable, match="another certificate"):
            remote.connection.stream("operations/none/websocket", "talk", 5)

    def test_a_bot_that_is_not_trusted_yet_gets_a_clear_error(self, address: str, pinned: str) -> None:
        with pytest.raises(LxdUnavailable, match="does not trust this bot"):
            LxdGateway(address, server_certificate=pinned).server()
        with pytest.raises(LxdUnavailable, match="does not allow"):
            LxdGateway(address, server_certificate=pinned).instances()


class TestUnreachable:
    def test_a_missing_socket_is_reported_as_unreachable(self, tmp_path: Path) -> None:
        with pytest.raises(LxdUnavailable, match="cannot be reached"):
            LxdGateway(str(tmp_path / "unix.socket")).instances()

    def test_a_server_that_does_not_answer_times_out(self, tmp_path: Path) -> None:
        path = str(tmp_path / "unix.socket")
        with socket.socket(socket.AF_UNIX) as mute:
            mute.bind(path)
            mute.listen()
            with pytest.raises(LxdUnavailable, match="did not answer in time"):
                LxdGateway(path, timeout=0.2).instances()


def test_a_change_waits_for_a_running_operation_on_the_instance(lxd: LxdGateway, new_name: Callable[[], str]) -> None:
    name = new_name()
    lxd.create(name, "tiny", config={}, devices={})
    for _ in range(3):
        # As after a crash: an operation of the bot still runs when the bot comes back to the same instance.
        with ThreadPoolExecutor(4) as pool:
            starts = [pool.submit(lxd.start, name) for _ in range(2)]
            updates = [pool.submit(lxd.update, name, {f"user.n{number}": "1"}) for number in range(2)]
        for done in (*starts, *updates):
            done.result()
        assert lxd.instance(name).running
        lxd.stop(name, force=True)
        lxd.update(name, {"user.n0": None, "user.n1": None})
