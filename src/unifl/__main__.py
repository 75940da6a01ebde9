"""`python -m unifl`, the same as the `unifl` command."""

from unifl.cli import main

if __name__ == "__main__":
    main()
