"""``python -m lit_decom`` is ``lit-decom``."""

from lit_decom.cli import main

if __name__ == "__main__":
    main()
