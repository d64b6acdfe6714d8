"""What the tests of the whole thing share."""

from playwright.sync_api import expect

# A migration, or three other tests, may run beside a browser on two cores.
expect.set_options(timeout=60_000)
