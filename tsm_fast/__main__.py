"""`python -m tsm_fast` is the `tsm-fast` command."""

from .cli import main

if __name__ == "__main__":
    main()
