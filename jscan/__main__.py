"""`python -m jscan` is `jscan`."""

from __future__ import annotations

from jscan.cli import main

if __name__ == "__main__":
    main()
