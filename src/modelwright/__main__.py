"""``python -m modelwright``: the command line."""

from __future__ import annotations

from modelwright.cli import main

if __name__ == "__main__":
    main()
