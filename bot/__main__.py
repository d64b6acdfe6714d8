"""The command line: `python -m bot run` is the bot; the other verbs bring its world up and down."""

import gc
import sys

# What is loaded stays: to look through it for garbage, again and again, takes a tenth of the start.
gc.disable()

from bot.program import main  # noqa: E402

gc.freeze()
gc.enable()

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
