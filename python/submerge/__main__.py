"""`python -m submerge` is the command `submerge`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line; who interrupts it while it is still being imported cancels it, too."""
    try:
        from submerge.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("cancelled: nothing was written\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
