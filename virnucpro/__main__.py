"""The program, `virnucpro` or `python -m virnucpro`: it hears signals before it imports more."""

import os  # and no more: a signal that comes before `main` makes a traceback


def main() -> None:
    """Run the command; while it is being imported, a signal ends the process at once."""
    try:
        import signal

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, _stop)
        from virnucpro.cli.main import main as run
    except KeyboardInterrupt:  # before `signal` was there
        _stop(2)
    run()


def _stop(number: int, frame: object = None) -> None:
    try:
        os.write(2, b"virnucpro: stopped by a signal\n")
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
