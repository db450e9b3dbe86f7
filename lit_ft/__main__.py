"""``python -m lit_ft`` is ``lit-ft``."""

from lit_ft.command.cli import main

if __name__ == "__main__":
    main()
