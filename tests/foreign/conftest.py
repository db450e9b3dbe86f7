"""These tests run where the projects are installed: ``make test-foreign``."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("chemprop") else ["test_*.py"]
