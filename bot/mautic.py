"""What is done inside a tenant, by way of the in-tenant tool `mautic-ctl`, which is pushed anew before each use."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot.lxd import Lxd, LxdError, NotFound
from bot.tenants import PlanSize

TOOL = "/usr/local/sbin/mautic-ctl"
SOURCE = Path(__file__).parent / "blueprint" / "mautic_ctl.py"


class Mautic:
    """The Mautic in an instance of one host."""

    def __init__(self, lxd: Lxd) -> None:
        self.lxd = lxd
        self._tool = SOURCE.read_bytes()

    def call(self, instance: str, verb: str, request: Mapping[str, Any], *, timeout: int = 120) -> dict[str, Any]:
        """Run one verb of the tool and return its answer; raises LxdError with the tool's sentence when it fails.

        Request and answer travel as files of mode 0600 that do not stay: nothing secret is in argv or output.
        """
        # Of what changes a tenant one runs at a time: the next takes away what a killed one left.
        token = secrets.token_hex(8) if verb in ("health", "version") else verb
        request_file, result_file = f"/root/.ctl-{token}.in", f"/root/.ctl-{token}.out"
        self.lxd.push(instance, TOOL, self._tool, mode=0o755)
        self.lxd.push(instance, request_file, json.dumps(dict(request)).encode())
        try:
            ended = self.lxd.execute(
                instance, ["/usr/bin/python3", TOOL, verb, request_file, result_file], timeout=timeout
            )
            try:
                answer: dict[str, Any] = json.loads(self.lxd.pull(instance, result_file))
            except NotFound:
                answer = {
                    "ok": False,
                    "error": f"mautic-ctl {verb} ended with {ended.code} and left no answer",
                }
        finally:
            for path in (request_file, result_file):
                self.lxd.remove(instance, path)
        if not answer.get("ok"):
            raise LxdError(f"Inside `{instance}`: {answer.get('error', 'the tool gave no reason')}.")
        return answer

    def identity(
        self,
        instance: str,
        *,
        domain: str,
        site_url: str,
        username: str,
        email: str,
        password: str,
        database_password: str,
        secret_key: str,
        size: PlanSize,
        edge_address: str,
    ) -> None:
        """Re-key a clone: machine, host keys, database, Mautic's own secrets, admin; then unseal it."""
        self.call(
            instance,
            "identity",
            {
                "hostname": instance,
                "domain": domain,
                "site_url": site_url,
                "admin": {"username": username, "email": email, "password": password},
                "db_password": database_password,
                "secret_key": secret_key,
                "innodb_buffer_pool": size.innodb_buffer_pool,
                "fpm_children": size.fpm_children,
                "email_workers": size.email_workers,
                "edge_address": edge_address,
            },
        )
