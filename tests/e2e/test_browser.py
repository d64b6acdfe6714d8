"""The main job by hand, in a browser: ask in the chat page, approve as somebody else, open the tenant's login page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.support.real_lxd import need
from tests.support.world import LISTEN, World

QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]


@pytest.fixture
def browser() -> Iterator[Browser]:
    """Debian's Chromium, which resolves every tenant's domain to the test's edge."""
    need("chromium")
    with sync_playwright() as playwright:
        resolver = f"--host-resolver-rules=MAP *.e2e.localhost {LISTEN}"
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=[*QUIET, resolver])
        yield started
        started.close()


def reveal(page: Page, card: Locator) -> None:
    """Press the button until the first credentials are shown: Slack opens no modal after 3 seconds."""
    for _ in range(3):
        card.locator('[data-action-id="reveal"]').click()
        with suppress(AssertionError):
            return expect(page.locator("dialog")).to_contain_text("Password", timeout=15_000)
    raise AssertionError("the first credentials were not shown")


def test_a_tenant_is_requested_approved_and_visited_in_a_browser(world: World, browser: Browser) -> None:
    try:
        page = browser.new_page()
        page.goto(f"{world.workspace.url}/#as=account-manager&in=C0OPS")
        page.fill("#composer", "/mautic new browser-x")
        page.press("#composer", "Enter")
        card = page.locator("#messages .message", has_text="Create tenant browser-x")
        expect(card).to_contain_text("waiting for approval")

        # The approver, on a phone.
        phone = browser.new_page(viewport={"width": 390, "height": 844})
        phone.goto(f"{world.workspace.url}/#as=ops-lead&in=C0OPS")
        phone.locator('[data-action-id="approve"]').click()
        expect(card).to_contain_text("— done")
        expect(phone.locator('[data-action-id="approve"]')).to_have_count(0)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390

        tenant = browser.new_context(ignore_https_errors=True).new_page()
        answer = tenant.goto("https://browser-x.e2e.localhost/s/login")
        assert answer
        assert answer.status == 200
        expect(tenant.locator('[name="_username"]')).to_be_visible()

        reveal(page, card)
        expect(phone.locator("dialog")).not_to_be_visible()
    finally:
        world.remove("browser-x")
