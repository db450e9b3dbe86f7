"""One clear line from what the parser says about a configuration."""

import inspect
import re
import sys
from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from lit_ft.command.elsewhere import elsewhere
from lit_ft.command.names import import_all, known
from lit_ft.command.request import SECTIONS
from lit_ft.core.errors import nearest


def parser_complaint(text: str) -> str:
    """Condense what jsonargparse says: the keys on the way down, then the innermost reason."""
    keys = re.findall(r'Parser key "([^"]+)"', text)
    classes = re.findall(r"given class_path '([\w.]+)'", text)
    if len(classes) > 1 and classes[-1] == "lightning.Callback":  # the parser's second try, one callback alone
        classes.pop()
    path = ".init_args.".join(keys)
    moved = re.search(
        r"given class_path '(lit_ft\.[\w.]+)':\s+(?:No module named|module '[\w.]+' has no attribute)", text
    )
    if moved:
        name = moved[1].rpartition(".")[2]
        now = f"{known()[name][0]}.{name}, its name now" if name in known() else "a class that lit-ft methods lists"
        return f"{path}: given class {moved[1]!r}; allowed: {now}"
    unknown = re.search(r"(?:Option|option) '([\w.-]+)'(?: is not accepted)?", text) or re.search(
        r"unrecognized arguments: --([\w.-]+)", text
    )
    if unknown:
        group = re.search(r"Group '([\w.]+)' does not accept", text)
        name = f"{group[1]}.{unknown[1]}" if group else unknown[1]
        return _unknown_key(name, path, classes)
    required = re.search(r"the following arguments are required: (.+)", text)
    if required:
        taker = f"{path}: {classes[-1].rpartition('.')[2]} needs" if classes else "a run needs"
        return f"{taker} {required[1]}, which nothing gives"
    inner = re.search(
        r"\[(.+)\]\n[^\0]*?Given value: (.+?)(?:\. Got value: .*)?$", text.rpartition("Subtypes: ")[2], re.M
    )
    if inner and (kinds := _plain_kinds(inner[1])):
        return f"{path}: given {inner[2]!r}; allowed: {kinds}"
    named = inner and re.match(r"dict\[str, (?:\w+\.)*(\w+)\]", inner[1])
    if inner and named and "Expected a <class 'dict'>" in text.rpartition("Subtypes: ")[2]:
        return f"{path}: given {inner[2]!r}; allowed: a mapping of names, each to a {named[1]} with its class_path"
    unread = re.search(r"Unable to load config '(.+)'", text)
    if unread:
        return f"{'.init_args.'.join(dict.fromkeys(keys))}: given {unread[1]!r}; allowed: a mapping of keys"
    missing = re.findall(r"(?:(--\S+): )?Expected a dot import path string: (\S+)", text)
    if missing:
        return _unknown_class(missing[0][1], path or missing[0][0], text)
    if (kind := _other_kind(text)) is not None:
        return f"{'.init_args.'.join(dict.fromkeys(keys))}: {kind}"
    value = re.search(r"Expected an? (.+?)\. Got value: (.+?)(?:\. Got value: .*)?$", text, re.MULTILINE)
    if value:
        quotes = ", in quotes" * (_kind(value[1]) == "str")
        return f"{path}: given {value[2]!r}; allowed: {_kind(value[1])}{quotes}"
    if inner:
        return f"{'.init_args.'.join(dict.fromkeys(keys))}: given {_shortened(inner[2])}; allowed: {_names(inner[1])}"
    if text.startswith("Unexpected config:"):
        return "--config: given an empty file; allowed: YAML with the sections model, data and trainer"
    first = text.split("Given value type", 1)[0]
    return f"{path}: " * (bool(path) and path not in first) + " ".join(first.split())


def _other_kind(text: str) -> str | None:
    """What was given and is allowed where a class is named that is not of the kind that belongs there."""
    makes = re.search(r"expects a function or a callable class: (?![^\0]*Parser key)[^\0]*?Got value: (.+)", text)
    if makes:
        returns = re.search(r"Type (typing\.Callable\[.*\]) expects", text)
        of = _names(returns[1].rpartition("], ")[2].removesuffix("]")) if returns else "what belongs there"
        return f"given {_shortened(makes[1])}; allowed: a class, by name or class_path, or a function that makes {of}"
    wrong = re.search(r"Import path (\S+) does not correspond to a subclass of (\w+)", text)
    if wrong:
        return f"given class {wrong[1]!r}; allowed: a {wrong[2]}"
    abstract = re.search(r"Expected an instantiatable class, but (\S+) is abstract", text)
    if abstract:
        return f"given class {abstract[1]!r}; allowed: one of its subclasses, with class_path"
    value = re.search(r"Not a valid subclass of (\w+)\. Got value: (.+)", text)
    if value:
        return f"given {_shortened(value[2])}; allowed: a {value[1]}: its name, or class_path and init_args"
    return None


def _shortened(value: str) -> str:
    value = value.replace("Namespace(", "(")
    return value if len(value) <= 80 else f"{value[:80]} ..."


def _names(kinds: str) -> str:
    """Types by their last names."""
    return re.sub(r"(?:\w+\.)+(\w+)", r"\1", _kind(kinds))


def _kind(text: str) -> str:
    """A type as a person writes it: int, list[int], the literals."""
    return re.sub(r"<class '([\w.]+)'>|typing\.", lambda m: (m[1] or "").replace("NoneType", "null"), text)


def _plain_kinds(subtypes: str) -> str:
    """The members of a union, or nothing when a class to be named is among them."""
    kinds = _kind(subtypes).replace(", torch.Tensor", "")
    dotted = re.search(r"[A-Za-z_]\.[A-Za-z_]", re.sub(r"Literal\[.*?\]", "", kinds))
    return "" if dotted else kinds.replace("Any", "any")


def _unknown_key(name: str, owner: str, classes: list[str]) -> str:
    first, deeper, _ = name.partition(".")
    if deeper and (known := _keys(classes[-1], "") if classes else list(SECTIONS)) and first not in known:
        name = first if classes else name  # the mistake is above what the parser stumbles over
    head, _, key = name.rpartition(".")
    if classes and _is_function(classes[-1], owner.rpartition(".")[2]):
        return f"{owner}: given {key} alone; allowed: with a class_path, as its default is a function and not a class"
    keys = _keys(classes[-1], head) if classes else _keys_of_section(head)
    place = ".".join(part for part in (owner if not classes else f"{owner}.init_args", head) if part)
    where = f"{place}.{key}" if place else key
    taker = f"{classes[-1].rpartition('.')[2]} takes" if classes and not head else "the keys"
    shown = keys if len(keys) <= 16 else get_close_matches(key, keys, n=3, cutoff=0.3)
    allowed = f"{taker} {', '.join(shown)}{' ...' * (len(shown) < len(keys))}" if keys else "a known key"
    if not classes and (place := elsewhere(name)) and first not in SECTIONS:
        return f"--{name}: unknown key; allowed: {', '.join(SECTIONS)}{place}"
    other = f"; of one in a list: --trainer.callbacks.CLASS.{key}" if owner == "trainer.callbacks" else ""
    return f"{where}: unknown key; allowed: {allowed}{nearest(key, keys)}{other}"


def _keys(class_path: str, group: str) -> list[str]:
    """Arguments of a class, or of the dataclass that is the type of its argument ``group``."""
    module, _, name = class_path.rpartition(".")
    try:
        owner = getattr(sys.modules[module], name)
        parameters = _parameters(owner)
    except (KeyError, AttributeError, ValueError, TypeError):
        return []
    if group and group in parameters:
        owner = parameters[group].annotation
        parameters = _parameters(owner) if inspect.isclass(owner) else {}
    elif inspect.isclass(owner) and "kwargs" in inspect.signature(owner).parameters:
        from jsonargparse import ArgumentParser

        return ArgumentParser(exit_on_error=False).add_class_arguments(owner, fail_untyped=False)  # less what it fixes
    return list(parameters)


def _parameters(owner: Any) -> dict[str, inspect.Parameter]:
    """Arguments of a class or function; of a class that hands on its ``**kwargs``, those of its bases too."""
    found: dict[str, inspect.Parameter] = {}
    for one in (owner, *getattr(owner, "__mro__", ())[1:]):
        own = inspect.signature(one).parameters
        found |= {name: value for name, value in own.items() if name not in found}
        if not any(value.kind is value.VAR_KEYWORD for value in own.values()):
            break
    return {name: value for name, value in found.items() if value.kind not in (value.VAR_KEYWORD, value.VAR_POSITIONAL)}


def _is_function(class_path: str, argument: str) -> bool:
    """Whether the default of a constructor's argument is a function, which has no arguments that YAML could set."""
    module, _, name = class_path.rpartition(".")
    try:
        default = _parameters(getattr(sys.modules[module], name))[argument].default
    except (AttributeError, ValueError, TypeError, KeyError):
        return False
    return inspect.isfunction(default)


def _keys_of_section(section: str) -> list[str]:
    if section == "trainer":
        import lightning.pytorch as pl

        return list(inspect.signature(pl.Trainer).parameters)
    return list(SECTIONS) if not section else []


def _unknown_class(name: str, path: str, text: str) -> str:
    bases = [base for base in re.findall(r"<class '([\w.]+\.[\w]+)'>", text) if not base.startswith("jsonargparse")]
    bases += ["torch.optim.optimizer.Optimizer"] * ("Optimizer" in text or path.endswith("optimizer"))
    names: set[str] = set()
    import_all()
    for base in bases[-2:]:
        module, _, cls = base.rpartition(".")
        names |= {c.__name__ for c in _subclasses(getattr(sys.modules.get(module), cls, None)) if c.__name__[0] != "_"}
    hint = nearest(name.rpartition(".")[2], names)
    return f"{path}: given class {name!r}; allowed: a known short name or an import path{hint}; see lit-ft methods"


def _subclasses(base: Any) -> Iterator[type]:
    if isinstance(base, type):
        children: list[type] = base.__subclasses__()
        for child in children:
            yield child
            yield from _subclasses(child)
