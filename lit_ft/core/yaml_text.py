"""The one reader of YAML: nothing that stands in a file is dropped, and no word becomes something else unsaid."""

import re
from enum import Enum
from io import StringIO
from typing import Any

import yaml

_MOST = 100_000  # values of a file once its aliases are written out
_DEEPEST = 100
_AMBIGUOUS = (
    (re.compile(r"(yes|no|on|off)\Z", re.IGNORECASE), "true or false"),
    (re.compile(r"[-+]?0[0-9_]*[0-9]\Z"), "the number without a zero before it"),
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Safe, with a mapping's keys as they are written."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; a key that stands in it twice is refused."""
        seen: dict[str, yaml.Mark] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if not isinstance(key, yaml.ScalarNode):
                raise _refused(key, "a key is one word, not a list or mapping")
            if key.value in seen:
                first = f"line {seen[key.value].line + 1}"
                raise _refused(key, f"the key {key.value!r} stands here and in {first}; one of them would be dropped")
            seen[key.value] = key.start_mark
            key.tag = "tag:yaml.org,2002:str"  # so that an option may be called yes, 0 or 1e3
        return super().construct_mapping(node, deep)

    def _number(self, node: yaml.ScalarNode) -> Any:
        """A number or truth value, unless the versions of YAML read it differently."""
        for pattern, other in _AMBIGUOUS:
            if not node.style and pattern.match(node.value):
                meant = f"the text '{node.value}' in quotes, or {other}"
                raise _refused(node, f"{node.value} is read differently by versions of YAML; write {meant}")
        kind = node.tag.rpartition(":")[2]
        try:
            return getattr(self, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError) as error:  # thousands of digits, or a tag that does not fit
            raise _refused(node, f"{node.value[:40]!r} is no {kind} that can be read") from error


_Loader.yaml_implicit_resolvers = {  # without times, and without 12:30:00 as a number of seconds
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "float", "int")]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"[-+]?(0b[01_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)\Z"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"([-+]?[0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+"
        r"|[-+]?\.[0-9][0-9_]*([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"
    ),
    list("-+0123456789."),
)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever any version of YAML would not read as a text."""


_Dumper.add_multi_representer(Enum, lambda dumper, value: dumper.represent_data(value.value))
_Dumper.yaml_implicit_resolvers = {
    first: [*yaml.SafeDumper.yaml_implicit_resolvers.get(first, ()), *resolvers]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}
for _kind in ("int", "float", "bool"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader._number)


def read_yaml(text: str, name: str = "") -> Any:
    r"""Plain data from YAML.

    Keys are the texts that are written, whatever they look like. Refused are: a key that stands twice in a mapping,
    words that versions of YAML read differently (``yes``, ``off``, ``010``) outside of quotes, aliases that contain
    themselves or grow beyond a hundred thousand values, and tags. Times such as ``12:30:00`` are texts, and
    ``1e-3`` is a number.

    Args:
        text: One document.
        name: Name of its file, for messages.

    Raises:
        yaml.YAMLError: The text cannot be read; the message says where.

    Example:
        >>> read_yaml("{rate: 1e-3, options: {yes: right, 0: wrong}}")
        {'rate': 0.001, 'options': {'yes': 'right', '0': 'wrong'}}
        >>> read_yaml("trainer: {max_steps: 3}\ntrainer: {callbacks: []}", "sam.yaml")
        Traceback (most recent call last):
            ...
        yaml.constructor.ConstructorError: the key 'trainer' stands here and in line 1; one of them would be dropped
          in "sam.yaml", line 2, column 1
    """
    stream: Any = text
    if name:
        stream = StringIO(text)
        stream.name = name
    _check_depth(text, stream)
    loader = _Loader(stream)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _written_out(node, {}, set())
        return loader.construct_document(node)
    finally:
        loader.dispose()


def write_yaml(data: Any) -> str:
    r"""YAML that ``read_yaml`` reads as the same data.

    Example:
        >>> write_yaml({"name": "1e3", "width": 3})
        "name: '1e3'\nwidth: 3\n"
    """
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _refused(node: yaml.Node, problem: str) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_depth(text: str, stream: Any) -> None:
    """Refuse what would overrun the stack of the reader."""
    if sum(map(text.count, "[{-:?")) < _DEEPEST:
        return
    depth = 0
    for event in yaml.parse(stream, _Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > _DEEPEST:
                problem = f"mappings and lists within each other more than {_DEEPEST} deep"
                raise yaml.constructor.ConstructorError(None, None, problem, event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    if stream is not text:
        stream.seek(0)


def _written_out(node: yaml.Node, sizes: dict[int, int], above: set[int]) -> int:
    """How many values a node has once its aliases are written out."""
    if id(node) in sizes:
        return sizes[id(node)]
    if id(node) in above:
        raise _refused(node, "an anchor whose alias stands within it, so that it has no end")
    inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
    size = 1
    if not isinstance(node, yaml.ScalarNode):
        above.add(id(node))
        size += sum(_written_out(part, sizes, above) for part in inner)
        above.remove(id(node))
    if size > _MOST + len(sizes):  # without aliases it is at most as many as were seen
        raise _refused(node, f"aliases that make more than {_MOST:,} values of this")
    sizes[id(node)] = size
    return size
