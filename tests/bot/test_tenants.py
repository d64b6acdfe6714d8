"""Names, domains and labels of tenants: which are valid, and why others are refused."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.model.forms import shown_domain
from bot.model.labels import as_labels, label_of, replaced, replacing
from bot.model.tenants import RESERVED, InvalidName, domain_name, tenant_name


@pytest.mark.parametrize(
    ("text", "name"),
    [("client-x", "client-x"), (" Client-X ", "client-x"), ("a", "a"), ("a1", "a1"), ("x" * 40, "x" * 40)],
)
def test_a_valid_name_is_normalised(text: str, name: str) -> None:
    assert tenant_name(text) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "needs a name"),
        ("x" * 41, "41 characters"),
        ("-x", "no hyphen at the start or end"),
        ("x-", "no hyphen at the start or end"),
        ("1x", "start with a letter"),
        ("a--b", "Two hyphens"),
        ("a_b", "lower-case letters"),
        ("a.b", "lower-case letters"),
        ("a b", "lower-case letters"),
        ("käse", "lower-case letters"),
        ("a\n", None),
        ("admin", "reserved"),
        ("WWW", "reserved"),
    ],
)
def test_an_invalid_name_is_refused_with_the_reason(text: str, why: str | None) -> None:
    if why is None:
        assert tenant_name(text) == text.strip()
        return
    with pytest.raises(InvalidName, match=why):
        tenant_name(text)


@given(st.text(max_size=60))
def test_any_text_is_a_dns_label_or_refused(text: str) -> None:
    try:
        name = tenant_name(text)
    except InvalidName:
        return
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", name)
    assert name not in RESERVED


@pytest.mark.parametrize("text", ["m.client.com", "M.Client.COM.", "a-b.c1.io", "xn--kse-qla.example"])
def test_a_valid_domain_is_accepted(text: str) -> None:
    assert domain_name(text) == text.lower().rstrip(".")


@pytest.mark.parametrize(
    ("text", "ascii"),
    [
        ("müller-shop.de", "xn--mller-shop-9db.de"),
        ("MÜLLER-Shop.DE", "xn--mller-shop-9db.de"),
        ("mu\u0308ller-shop.de", "xn--mller-shop-9db.de"),
        ("straße.de", "xn--strae-oqa.de"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_a_domain_with_other_letters_becomes_its_dns_form(text: str, ascii: str) -> None:
    assert domain_name(text) == ascii
    assert domain_name(shown_domain(ascii)) == ascii


@given(st.text(max_size=80))
def test_any_text_is_a_dns_domain_or_refused(text: str) -> None:
    with suppress(InvalidName):
        domain = domain_name(text)
        assert re.fullmatch(r"[a-z0-9.-]{3,253}", domain)
        assert domain_name(domain) == domain


@pytest.mark.parametrize(
    "text",
    [
        "",
        "localhost",
        "a_b.com",
        "\N{PILE OF POO}.com",
        "xn--a.com",
        "https://m.client.com",
        "m.client.com/x",
        "-a.com",
        "a-.com",
        "a..com",
        "1.2.3.4",
        "a.com:8443",
        "x" * 64 + ".com",
        "a b.com",
        "*.client.com",
        "a" * 250 + ".com",
    ],
)
def test_an_invalid_domain_is_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="is not a domain"):
        domain_name(text)


def test_labels_are_stored_under_one_prefix() -> None:
    config = as_labels(role="tenant", created=5, double=True, was_running=False)
    assert config == {
        "user.mautic-ops.role": "tenant",
        "user.mautic-ops.created": "5",
        "user.mautic-ops.double": "1",
        "user.mautic-ops.was-running": "0",
    }
    assert (label_of(config, "role"), label_of(config, "note")) == ("tenant", "")


@pytest.mark.parametrize(
    ("config", "known"),
    [
        (replacing("migrate", 17), ("migrate", 17)),
        (as_labels(reason="restore 17"), ("restore", 17)),
        (as_labels(replaced_by="restore", replaced_in=3, reason="because it was slow"), ("restore", 3)),
        (as_labels(reason="restore"), ("restore", 0)),
        ({}, ("", 0)),
    ],
)
def test_what_replaced_a_retired_container_is_known_from_older_labels_too(
    config: dict[str, str], known: tuple[str, int]
) -> None:
    assert replaced(config) == known
