"""`python -m submerge` is the command `submerge`."""

from submerge.cli import main

if __name__ == "__main__":
    main()
