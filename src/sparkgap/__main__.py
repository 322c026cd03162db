"""`python -m sparkgap`."""

from sparkgap.cli import main

if __name__ == "__main__":
    main()
