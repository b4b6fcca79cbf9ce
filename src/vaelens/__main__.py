"""The command `vaelens`, and python -m vaelens."""

import sys


def main() -> None:
    """Run the command line; Ctrl-C while it is being imported ends in one line, too."""
    try:
        from vaelens.cli import main as run
    except KeyboardInterrupt:
        print("vaelens: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
