"""Makes nginx, and so Mautic, trust forwarded headers from the host's edge only."""

from pathlib import Path

from .system import CtlError

EDGE = Path("/etc/nginx/conf.d/edge.conf")


def edge_conf(address: str) -> str:
    """Return nginx's edge.conf, which trusts `address` and the inside socket (nginx sees it as 255.255.255.255)."""
    believed = f"    {address} 1;\n" if address else ""
    real_ip = f"set_real_ip_from {address};\nreal_ip_header X-Forwarded-For;\n" if address else ""
    return f"geo $realip_remote_addr $from_edge {{\n    default 0;\n    255.255.255.255 1;\n{believed}}}\n{real_ip}"


def checked_address(address: str) -> str:
    """Return an address unchanged; raises CtlError for characters that no IP address has."""
    if set(address) - set("0123456789abcdef.:"):
        raise CtlError("`edge_address` is not an address")
    return address
