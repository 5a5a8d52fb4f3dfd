"""`python -m virnucpro` is the same as the `virnucpro` command."""

from virnucpro.cli.main import main

if __name__ == "__main__":
    main()
