"""The program, `virnucpro` or `python -m virnucpro`: it hears signals before it imports more."""

import os
import signal


def main() -> None:
    """Run the command; while it is being imported, a signal ends the process at once."""
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda number, frame: os._exit(128 + number))
    from virnucpro.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
