"""Classes as they would be if their files had imported the other package of Lightning."""

import inspect
import sys
from typing import Any


def of(package: Any, *kinds: type) -> Any:
    """The last of some classes, each of which may inherit from an earlier one, on ``package`` as ``pl``."""
    names: dict[str, Any] = {}
    for kind in kinds:
        names = {**vars(sys.modules[kind.__module__]), **names, "pl": package}
        exec(inspect.getsource(kind), names)
        names = {one.__name__: names[one.__name__] for one in kinds if one.__name__ in names}
    return names[kinds[-1].__name__]
