"""`python -m posneurons`."""

from posneurons.cli import main

if __name__ == "__main__":
    main()
