"""`python -m securepfl` is the command line."""

from securepfl.cli.main import main

if __name__ == "__main__":
    main()
