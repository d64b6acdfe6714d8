"""Reads and writes Mautic's parameters: the client's in local.php, the provider's in parameters_local.php beside it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .system import MAUTIC, CtlError, output_of, php, write

LOCAL, PROVIDER = MAUTIC / "config/local.php", MAUTIC / "config/parameters_local.php"

PROVIDER_PARAMETERS: dict[str, Any] = {
    # Mautic's defaults lose mail: no queue, no failure queue, retries within seconds.
    "messenger_dsn_email": "doctrine://default?queue_name=email",
    "messenger_dsn_hit": "doctrine://default?queue_name=hit",
    "messenger_dsn_failed": "doctrine://default?queue_name=failed",
    "messenger_retry_strategy_max_retries": 5,
    "messenger_retry_strategy_delay": 60000,
    "messenger_retry_strategy_multiplier": 3.0,
    # The provider makes updates, and nobody else may see a client's statistics.
    "system_update_url": "",
    "stats_update_url": "",
    "sysinfo_disabled": True,
}
"""Parameters that the client's own settings page cannot override."""

RENDER_PARAMETERS = """
$job = json_decode(stream_get_contents(STDIN), true);
$parameters = [];
ob_start();
if (is_file($job['local'])) { include $job['local']; }
ob_end_clean();
$text = fn ($parameters) => "<?php\\n\\$parameters = " . var_export($parameters, true) . ";\\n";
echo json_encode([
    'before' => (object) $parameters,
    'local' => $text(array_diff_key(array_replace($parameters, $job['set']), array_flip($job['remove']))),
    'provider' => $text($job['provider']),
]);
"""
ADMIN_PARAMETERS = ("admin_firstname", "admin_lastname", "admin_username", "admin_email", "admin_password")


def trusted_host(domain: str) -> str:
    """Return a pattern for Mautic's `trusted_hosts` that matches only this domain."""
    return "^" + domain.replace(".", r"\.") + "$"


def provider_parameters(domain: str, edge_address: str) -> dict[str, Any]:
    """Return the provider's parameters of one tenant."""
    proxies = {"trusted_proxies": [edge_address]} if edge_address else {}
    return PROVIDER_PARAMETERS | {"trusted_hosts": [trusted_host(domain)]} | proxies


def render_parameters(local: Mapping[str, Any], provider: Mapping[str, Any]) -> dict[str, Any]:
    """Return what local.php sets (`before`), and both files' text with these keys set and admin_* removed.

    The keys of the result are `before`, `local` and `provider`. Raises CtlError if local.php cannot be read.
    """
    job = {"local": str(LOCAL), "set": local, "remove": ADMIN_PARAMETERS, "provider": provider}
    try:
        rendered: dict[str, Any] = json.loads(output_of(php(RENDER_PARAMETERS, json.dumps(job)), "read local.php"))
    except ValueError:
        raise CtlError("config/local.php does not set $parameters as Mautic's does") from None
    return rendered


def read_parameters() -> dict[str, Any]:
    """Return the parameters that local.php sets."""
    before: dict[str, Any] = render_parameters({}, {})["before"]
    return before


def write_parameters(local: Mapping[str, Any], provider: Mapping[str, Any]) -> dict[str, Any]:
    """Set keys in local.php, remove admin_* there, replace parameters_local.php; return what local.php set before."""
    rendered = render_parameters(local, provider)
    write(LOCAL, rendered["local"], 0o640, "www-data", "www-data")
    write(PROVIDER, rendered["provider"], 0o640, group="www-data")
    # PHP compares compiled copies by a time in whole seconds, so it would miss a second write within one.
    for compiled in Path("/var/cache/php-opcache").glob(f"*{MAUTIC}/config/*.bin"):
        compiled.unlink(missing_ok=True)
    before: dict[str, Any] = rendered["before"]
    return before
