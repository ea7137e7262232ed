"""`python -m node` is `labora`."""

from node.cli import main

if __name__ == "__main__":
    main()
