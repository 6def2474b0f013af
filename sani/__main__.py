"""The command line, as `sani` alone: `python -m sani --help`."""

from .command.main import main

if __name__ == "__main__":
    main()
