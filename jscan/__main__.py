"""`python -m jscan` is `jscan`."""

from __future__ import annotations


def main() -> None:
    """Never returns: the command line.

    It is imported here and not above: every worker process imports the main module again, and needs no command line.
    """
    from jscan.cli import main as run

    run()


if __name__ == "__main__":
    main()
