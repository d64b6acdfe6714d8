"""What the tests of the whole thing share."""

from playwright.sync_api import expect

# A migration may run beside a browser on two cores.
expect.set_options(timeout=30_000)
