"""Settings that the end-to-end tests share."""

from playwright.sync_api import expect

# A browser may share two cores with a migration, or with three other tests.
expect.set_options(timeout=60_000)
