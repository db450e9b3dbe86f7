"""The parameters of a network, their place and their role, found from its structure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

import lightning.pytorch as pl
from torch import nn
from torch.nn.parameter import is_lazy

from lit_ft.core.errors import ConfigError
from lit_ft.core.lightning import either
from lit_ft.core.roles import Part, module_role, parts_of

_WRAPPERS = ("_forward_module.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")


@dataclass(frozen=True)
class Entry:
    """One parameter of a network.

    Args:
        name: Its name in the network.
        aliases: Its other names: those of tied copies, and the one in a module that wraps the network.
        parameter: The parameter.
        module: The module that owns it.
        stack: Path of its list of blocks (``encoder.block``); None outside of blocks.
        block: Number of its block within the stack, from 0; None outside of blocks.
        blocks: Number of blocks of that stack; 0 outside of blocks.
        depth: 0 before the blocks and in the first block, 1 in the last block and after the blocks.
        role: Role of its module, one of ``lit_ft.core.roles.ROLES``. A bias has the role of its weight.
        bias: Whether it is a bias.
        parts: Slices of the single matrices of a fused parameter, by role.
    """

    name: str
    aliases: tuple[str, ...]
    parameter: nn.Parameter
    module: nn.Module
    stack: str | None
    block: int | None
    blocks: int
    depth: float
    role: str
    bias: bool
    parts: Mapping[str, Part] = field(default_factory=dict)

    @property
    def category(self) -> str:
        """The role without its last part: attention, feed_forward, norm, embedding, head or other."""
        return self.role.partition(".")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases."""
        return self.name, *self.aliases


class ParameterIndex:
    """The unique parameters of a module, by the network's own names.

    Tied weights count once, under the name that comes first. Prefixes of wrappers (DDP, FSDP, ``torch.compile``) and of
    PEFT (``base_model.model.``, ``base_layer.``) are removed. In a LightningModule, the parameters of its child
    ``network`` (or else ``model``) are named as in that child: ``encoder.0.weight``, not ``network.encoder.0.weight``.
    The latter is an alias; patterns may use either.

    Blocks are the children of the outermost repeated ``ModuleList`` (or ``Sequential``) of modules of one class; an
    encoder-decoder has two such stacks. Roles are ``attention.query``, ``.key``, ``.value``, ``.output``, ``.qkv``
    (fused, with ``parts``), ``feed_forward.in``, ``.gate``, ``.out``, ``.gate_in`` (fused), ``norm``, ``embedding``,
    ``head`` and ``other``.

    Args:
        module: A network, or anything that wraps it.

    See also: :class:`~lit_ft.core.selection.Selection`.

    Example:
        >>> from lit_ft.models.small import MLP
        >>> index = ParameterIndex(MLP((4,), 2, depth=2))
        >>> [(entry.block, entry.role) for entry in index.values() if not entry.bias]
        [(0, 'feed_forward.in'), (1, 'feed_forward.in'), (None, 'head')]
        >>> index.match("blocks.1.*")
        ['blocks.1.linear.weight', 'blocks.1.linear.bias']
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module = unwrapped(module)
        refuse_lazy(module)
        self.network = network_of(module)
        inner = next((f"{key}." for key, child in module.named_children() if child is self.network), "")
        owners = {f"{path}." if path else "": child for path, child in module.named_modules(remove_duplicate=False)}
        names: dict[int, list[str]] = {}
        parameters: dict[int, tuple[nn.Parameter, nn.Module]] = {}
        for full, parameter in module.named_parameters(remove_duplicate=False):
            if id(parameter) not in parameters:
                owner = full[: full.rfind(".") + 1]
                parameters[id(parameter)] = parameter, owners[owner]
            own = plain_name(full.removeprefix(inner))
            known = names.setdefault(id(parameter), [])
            known.extend(name for name in (own, plain_name(full)) if name not in known)
        stacks = _stacks(module, inner)
        first_block = _first_in_blocks(names, stacks)
        self.entries: dict[str, Entry] = {}
        for position, (key, known) in enumerate(names.items()):
            name, *aliases = known
            if name in self.entries:  # the same name inside and outside of the network
                name, aliases = next(alias for alias in reversed(known) if alias not in self.entries), []
            parameter, owner_module = parameters[key]
            before = position < first_block
            place = _place(name, stacks)
            role = module_role(name, owner_module, parameter, place is not None, before)
            if place is not None:
                stack, block = place
                blocks = stacks[stack]
                depth = block / (blocks - 1) if blocks > 1 else 1.0
            else:
                stack, block, blocks = None, None, 0
                depth = 0.0 if role == "embedding" or (before and not _beside_a_stack(name, role, stacks)) else 1.0
            self.entries[name] = Entry(
                name,
                tuple(aliases),
                parameter,
                owner_module,
                stack,
                block,
                blocks,
                depth,
                role,
                name.rpartition(".")[2].endswith("bias"),
                parts_of(role, owner_module, parameter, self.network),
            )

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The parameters by name."""
        return {name: entry.parameter for name, entry in self.entries.items()}

    @property
    def stacks(self) -> dict[str, int]:
        """The number of blocks of each stack."""
        return {entry.stack: entry.blocks for entry in self.entries.values() if entry.stack is not None}

    def __getitem__(self, name: str) -> Entry:
        return self.entries[name]

    def __len__(self) -> int:
        return len(self.entries)

    def values(self) -> Iterable[Entry]:
        """The entries, in the order of the network."""
        return self.entries.values()

    def match(self, patterns: str | Sequence[str]) -> list[str]:
        """The names that a shell glob, or any of several, matches in full.

        A star also matches dots. A pattern is compared with every name of a parameter, aliases included.

        Raises:
            ConfigError: A pattern matches nothing; the nearest names are listed.
        """
        patterns = [patterns] if isinstance(patterns, str) else list(patterns)
        if not patterns:
            raise ConfigError("patterns", patterns, "at least one shell glob over parameter names")
        found: set[str] = set()
        for pattern in patterns:
            matched = {e.name for e in self.values() if any(fnmatchcase(name, pattern) for name in e.names)}
            if not matched:
                raise ConfigError("patterns", pattern, f"a shell glob over parameter names{self._nearest(pattern)}")
            found |= matched
        return [name for name in self.entries if name in found]

    def _nearest(self, pattern: str) -> str:
        bare = pattern.replace("*", "")
        close = get_close_matches(bare, list(self.entries), n=3, cutoff=0.3) or list(self.entries)[:3]
        wider = [name for name in self.entries if bare.strip(".") and bare.strip(".") in name][:3]
        return f"; nearest names: {', '.join(wider or close)}"


def refuse_lazy(module: nn.Module) -> None:
    """Refuse a module with a lazy layer that has not seen a batch: its weights have no shape yet.

    Example:
        >>> refuse_lazy(nn.LazyLinear(2))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: model: given 'LazyLinear with lazy weight'; allowed: one that has seen a...
    """
    if lazy := next((name for name, parameter in module.named_parameters() if is_lazy(parameter)), None):
        allowed = "one that has seen a batch: run it once before the fit, or give its layers their sizes"
        raise ConfigError("model", f"{type(module).__name__} with lazy {lazy}", allowed)


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside DDP, ``torch.compile`` or a wrapper of Lightning.

    Example:
        >>> network = nn.Linear(1, 1)
        >>> unwrapped(nn.DataParallel(network)) is network
        True
    """
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and type(module).__name__ in ("DistributedDataParallel", "DataParallel", "_FabricModule"):
            inner = getattr(module, "module", None) or getattr(module, "_forward_module", None)
        if not isinstance(inner, nn.Module):
            return module
        module = inner


def network_of(module: nn.Module) -> nn.Module:
    """The network of a LightningModule (its child ``network``, or else ``model``); any other module is returned itself.

    Example:
        >>> class Module(pl.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.network = nn.Linear(1, 1)
        >>> network_of(Module())
        Linear(in_features=1, out_features=1, bias=True)
    """
    module = unwrapped(module)
    if isinstance(module, either(pl.LightningModule)):
        for key in ("network", "model"):
            child = module._modules.get(key)
            if child is not None:
                return child
    return module


def plain_name(name: str) -> str:
    """A parameter's name without the parts that wrappers and PEFT add.

    Example:
        >>> plain_name("_orig_mod.base_model.model.encoder.0.base_layer.weight")
        'encoder.0.weight'
    """
    for wrapper in _WRAPPERS:
        name = name.replace(wrapper, "")
    name = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
    return name.replace(".parametrizations.", ".").removesuffix(".original")


def _is_stack(module: nn.Module) -> bool:
    blocks = [child for child in module.children() if next(child.parameters(), None) is not None]
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(blocks) < 2:
        return False
    kinds = {type(block) for block in blocks}
    composite = all(next(block.children(), None) is not None for block in blocks)
    if isinstance(module, nn.Sequential):  # Sequential(Linear, Tanh, Linear) is a stack only where there is no other
        return len(kinds) == 1 and composite
    return len(kinds) == 1 or (composite and len(kinds) < len(blocks))


def _stacks(module: nn.Module, inner: str) -> dict[str, int]:
    """Path of each outermost stack, by own names, and its number of blocks."""
    found: dict[str, int] = {}
    for path, child in module.named_modules():
        own = plain_name(f"{path}.".removeprefix(inner)).rstrip(".")
        if _is_stack(child) and not any(own.startswith(f"{outer}.") for outer in found):
            found[own] = len(list(child.children()))
    return found


def _place(name: str, stacks: Mapping[str, int]) -> tuple[str, int] | None:
    for stack in stacks:
        prefix = f"{stack}." if stack else ""
        number = name.removeprefix(prefix).partition(".")[0]
        if name.startswith(prefix) and number.isdigit():
            return stack, int(number)
    return None


def _first_in_blocks(names: Mapping[int, Sequence[str]], stacks: Mapping[str, int]) -> int:
    """Position of the first parameter inside a block; 0 without blocks."""
    return next((i for i, known in enumerate(names.values()) if _place(known[0], stacks) is not None), 0)


def _beside_a_stack(name: str, role: str, stacks: Mapping[str, int]) -> bool:
    """Whether a norm is a sibling of a list of blocks, as the final norm is, wherever it was registered."""
    parent, _, _ = name.rpartition(".")[0].rpartition(".")
    beside = any(stack.rpartition(".")[0] == parent for stack in stacks)
    return role == "norm" and beside and not any(part in name for part in ("embed", "pre"))
