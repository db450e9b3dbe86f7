"""Imports every class there is: for the process that runs are forked from."""

from lit_ft.command.names import import_all
from lit_ft.command.preload import quick_imports

with quick_imports(for_good=True):
    import lit_ft.command.run  # noqa: F401

    import_all()
