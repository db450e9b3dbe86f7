"""``lit-ft merge``: one network from several runs, as a folder that ``from_pretrained`` loads."""

import argparse
import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lit_ft.command.path_ends import ends
from lit_ft.core.errors import ConfigError, existing, nearest
from lit_ft.core.yaml_text import read_yaml, write_yaml
from lit_ft.merging.account import Account
from lit_ft.merging.expert import Expert, expert
from lit_ft.merging.plan import Plan, input_number, plan
from lit_ft.merging.recipe import WORDS, Recipe
from lit_ft.merging.write import bytes_of, copy_beside, refuse_full_disk, write_weights
from lit_ft.running.run_folder import held

USAGE = (
    f"lit-ft merge {'|'.join(WORDS)} INPUT INPUT ... --to DIR [--base BASE] [--KEY VALUE ...], or RECIPE.yaml --to DIR"
)


def merge_command(argv: Sequence[str]) -> int:
    """Compare the inputs, merge them, and say what was done."""
    # without abbreviations: --t of a merge would be taken for --to
    parser = argparse.ArgumentParser(
        "lit-ft merge", usage=USAGE, description="One network from several.", allow_abbrev=False
    )
    parser.add_argument("what", metavar="METHOD|RECIPE.yaml")
    parser.add_argument("inputs", nargs="*", metavar="INPUT")
    parser.add_argument("--to", metavar="DIR", help="folder to write; must not exist or be empty")
    parser.add_argument("--base", help="what the inputs' changes are of")
    parser.add_argument("--head", metavar="INPUT", help="whose head and settings are kept")
    parser.add_argument("--dtype", help="type of the result; the default is that of the inputs")
    parser.add_argument("--shard_size", default="5GB", help="most bytes of a file")
    parser.add_argument("--device", default="cpu", help="where it is computed")
    parser.add_argument("--dry-run", action="store_true", help="compare the inputs and write nothing")
    parser.add_argument("--import", action="append", default=[], dest="imports", metavar="MODULE")
    options, further = parser.parse_known_args(list(argv))
    recipe, folder = _recipe(options, further)
    if options.to is None and not options.dry_run:
        raise ConfigError("--to", None, "a folder to write, or --dry-run")
    target = Path(options.to or "merged")
    if options.to is not None and target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError("--to", options.to, "a folder that does not exist yet or is empty")
    with _aside(target) as aside:
        made, sources = _planned(recipe, folder, aside / "inputs", options.imports)
        made.device = _device(options.device)
        _say(made)
        if options.dry_run:
            return 0
        account = _written(made, recipe, folder, sources, aside / "result", target)
        (aside / "result").replace(target)
    _show(account)
    print(f"written: {target} ({', '.join(sorted(path.name for path in target.iterdir()))})")
    return 0


def _recipe(options: argparse.Namespace, further: Sequence[str]) -> tuple[Recipe, Path]:
    """What is asked for, and the folder that its paths begin at."""
    given = {key: getattr(options, key) for key in ("base", "head", "dtype") if getattr(options, key) is not None}
    given |= {"shard_size": options.shard_size} if options.shard_size != "5GB" else {}
    if options.what in WORDS:
        merge = {"class_path": options.what, "init_args": dict(_arguments(further))}
        return Recipe.of({"merge": merge, "inputs": options.inputs, **given}), Path()
    if not options.what.endswith((".yaml", ".yml")):
        known = f"{', '.join(WORDS)}, or a recipe.yaml{nearest(options.what, WORDS)}"
        raise ConfigError("METHOD", options.what, known)
    if further or options.inputs:
        raise ConfigError((further or options.inputs)[0], options.what, "a recipe says its inputs and arguments itself")
    path = existing("RECIPE", options.what)
    return Recipe.of({**(read_yaml(path.read_text(encoding="utf-8"), str(path)) or {}), **given}), path.parent


def _arguments(words: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """``--density 0.2 --weight 1 0.5`` as arguments of a merge; several values are a list."""
    place = 0
    while place < len(words):
        key, written, value = words[place].partition("=")
        if not key.startswith("--"):
            raise ConfigError("--KEY", words[place], "an argument of the merge, such as --density 0.2")
        place += 1
        values = [value] if written else []
        while place < len(words) and (not words[place].startswith("--")):
            values.append(words[place])
            place += 1
        if not values:
            raise ConfigError(key, None, "a value")
        read = [read_yaml(text, key) for text in values]
        name = key.removeprefix("--")
        yield name, read if len(read) > 1 or (name == "weight" and not isinstance(read[0], list)) else read[0]


@contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A folder beside the target in which everything is prepared; nothing of it stays, whatever happens."""
    aside = target.with_name(f".{target.name}.tmp")
    new = [folder for folder in target.parents if not folder.exists()]
    aside.mkdir(parents=True, exist_ok=True)
    try:
        with held(aside, "--to"):
            try:
                for left in ("inputs", "result"):  # of a merge that was killed
                    shutil.rmtree(aside / left, ignore_errors=True)
                    (aside / left).mkdir()
                yield aside
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise ConfigError("--to", str(target), "a disk that is not full; nothing was written") from error
        raise
    finally:
        for folder in new:
            with suppress(OSError):  # what was written is in it
                folder.rmdir()


def _device(name: str) -> torch.device:
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError("--device", name, "cpu, or a device of this machine such as cuda") from error


def _planned(recipe: Recipe, folder: Path, scratch: Path, imports: Sequence[str]) -> tuple[Plan, list[Expert]]:
    merge = recipe.made()
    labels = ends([Path(f"recipe {n}" if isinstance(one, dict) else str(one)) for n, one in enumerate(recipe.inputs)])
    experts = [
        _expert(one, label, folder, scratch / str(number), imports)
        for number, (one, label) in enumerate(zip(recipe.inputs, labels, strict=True))
    ]
    base = None if recipe.base is None else _expert(recipe.base, "base", folder, scratch / "base", imports)
    head = None if recipe.head is None else input_number("--head", str(recipe.head), experts)
    return plan(merge, experts, base, head, recipe.type), [*experts, *([base] if base else [])]


def _expert(given: Any, label: str, folder: Path, scratch: Path, imports: Sequence[str]) -> Expert:
    """A network from wherever it is; what is no folder of weights yet becomes one in ``scratch``."""
    if isinstance(given, dict):
        return _nested(Recipe.of(given), label, folder, scratch, imports)
    text = str(given)
    place = Path(text).expanduser() if Path(text).expanduser().is_absolute() else folder / text
    if not place.exists() and text.startswith("packaged:"):
        from lit_ft.models.source import locate

        place = Path(locate(text))
    if place.suffix in (".yaml", ".yml"):
        content = read_yaml(existing("inputs", place).read_text(encoding="utf-8"), str(place))
        return _nested(Recipe.of(content), label, place.parent, scratch, imports)
    if not place.exists():
        raise ConfigError("inputs", text, "a run folder, a folder of transformers, a .safetensors file or a recipe")
    if place.is_dir() and (place / "config.yaml").exists() and (place / "checkpoints").is_dir():
        return _of_run(place, label, scratch, imports)
    if place.is_dir() and (place / "adapter_config.json").exists() and not (place / "config.json").exists():
        return _of_adapter(place, label, scratch)
    return expert(place, label)


def _nested(recipe: Recipe, label: str, folder: Path, scratch: Path, imports: Sequence[str]) -> Expert:
    """A merge as the input of another: its tensors are computed when they are read."""
    scratch.mkdir(parents=True, exist_ok=True)
    made, _ = _planned(recipe, folder, scratch, imports)
    for note in made.notes:
        print(f"{label}: {note}")
    return Nested(made, label)


class Nested(Expert):
    """A merge that is an input of another one.

    Args:
        made: The merge.
        label: What it is called.
    """

    def __init__(self, made: Plan, label: str) -> None:
        first = made.inputs[made.head].expert
        super().__init__({}, label, first.config, first.folder)
        self.made = made
        self.shapes, self.dtypes = made.shapes, made.dtypes

    def read(self, name: str) -> torch.Tensor:
        """One tensor, computed now and not rounded."""
        return self.made.read(name)

    def fingerprint(self) -> str:
        """That of its inputs, in their order: nothing is computed for it."""
        views = [*self.made.inputs, *([self.made.base] if self.made.base else [])]
        return "+".join(view.expert.fingerprint() for view in views)


def _of_run(place: Path, label: str, scratch: Path, imports: Sequence[str]) -> Expert:
    """The trained network of a run, an adapter added to its base in float32."""
    from lit_ft.command.run import load_run

    built = load_run(place, [f"--import={name}" for name in imports], "merge")
    network = getattr(built.model, "network", None)
    if not isinstance(network, nn.Module):
        raise ConfigError("inputs", label, "a run of a method with one network")
    print(f"{label}: {built.checkpoint}")
    return _saved(network, label, scratch, built.model)


def _of_adapter(place: Path, label: str, scratch: Path) -> Expert:
    """An exported adapter, added to its base."""
    from lit_ft import models
    from lit_ft.core.network import Network

    settings = json.loads((place / "adapter_config.json").read_text(encoding="utf-8"))
    kind = settings.get("task_type")
    spec = Network(path=str(place))
    if kind == "SEQ_CLS":
        raise ConfigError("inputs", label, "the run that it was exported from: its folder says the classes")
    network = models.causal_lm(spec) if kind == "CAUSAL_LM" else models.bare_encoder(spec)
    return _saved(network, label, scratch, None)


def _saved(network: nn.Module, label: str, scratch: Path, module: Any) -> Expert:
    """A dense network, written into a folder."""
    from safetensors.torch import save_model

    from lit_ft.command.export import save_network
    from lit_ft.core.adapters import adapted
    from lit_ft.models.adapter_export import merged
    from lit_ft.models.build import quiet

    network = merged(network, "inputs") if adapted(network) else network
    scratch.mkdir(parents=True, exist_ok=True)
    if not hasattr(network, "save_pretrained"):
        save_model(network, str(scratch / "model.safetensors"))
        return expert(scratch, label)
    with quiet():
        save_network(network, module, scratch)
    return expert(scratch, label)


def _say(made: Plan) -> None:
    """What the comparison found."""
    rules = [rule for rule, _ in made.rules.values()]
    size = sum(math.prod(shape) * made.dtypes[name].itemsize for name, shape in made.shapes.items())
    counted = ", ".join(f"{rules.count(rule)} {rule}" for rule in dict.fromkeys(rules))
    labels = ", ".join(view.expert.label for view in made.inputs)
    print(f"{type(made.merge).__name__} of {labels}: {len(rules)} tensors ({counted}), {size / 1e6:,.1f} MB")
    for note in made.notes:
        print(f"  {note}")


def _written(made: Plan, recipe: Recipe, start: Path, sources: Sequence[Expert], folder: Path, target: Path) -> Account:
    shapes = made.shapes
    needed = sum(math.prod(shape) * made.dtypes[name].itemsize for name, shape in shapes.items())
    refuse_full_disk(folder, needed)
    labels = [view.expert.label for view in made.inputs]
    account = Account(labels, {name: made.place(name) for name in shapes}, made.base is not None)
    with torch.inference_mode(), _bar(len(shapes)) as advance:

        def read(name: str) -> torch.Tensor:
            tensor = made.read(name, account.add)
            advance()
            return tensor.cpu()

        write_weights(folder, shapes, made.dtypes, read, bytes_of(recipe.shard_size))
    first = made.inputs[made.head].expert
    folders = [view.expert.folder for view in [made.inputs[made.head], *made.inputs] if view.expert.folder is not None]
    base = made.base.expert.folder if made.base is not None else None
    for note in copy_beside(list(dict.fromkeys(folders)), base, folder):
        print(f"  {note}")
    if first.config:
        _write_config(folder / "config.json", first.config, made)
    _write_account(folder, made, recipe, start, sources, account, target)
    return account


def _write_config(path: Path, config: dict[str, Any], made: Plan) -> None:
    kinds = {kind for kind in made.dtypes.values() if kind.is_floating_point}
    text = {**config}
    text.pop("torch_dtype", None)
    if len(kinds) == 1:
        text["dtype"] = str(kinds.pop()).removeprefix("torch.")
    if made.untied:
        text["tie_word_embeddings"] = False
    path.write_text(json.dumps(text, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _write_account(
    folder: Path,
    made: Plan,
    recipe: Recipe,
    start: Path,
    sources: Sequence[Expert],
    account: Account,
    target: Path,
) -> None:
    """The recipe without private paths, the numbers, and a card."""
    from lit_ft import __version__

    def public(path: Any) -> Any:
        """As it is found from the new folder; of what was named from the root only the name, which is nobody's."""
        if isinstance(path, dict):
            return {key: public(value) if key in ("inputs", "base") else value for key, value in path.items()}
        if isinstance(path, list):
            return [public(one) for one in path]
        if Path(str(path)).expanduser().is_absolute():
            return Path(str(path)).name
        return os.path.relpath(start / str(path), target) if (start / str(path)).exists() else path

    plain = {key: value for key, value in vars(recipe).items() if value is not None}
    plain |= {"inputs": public(recipe.inputs), **({"base": public(recipe.base)} if recipe.base else {})}
    prints = "".join(f"#   {one.label}: {one.fingerprint()}\n" for one in sources)
    head = f"# written by lit-ft {__version__}; fingerprints of what was merged:\n{prints}"
    (folder / "recipe.yaml").write_text(head + write_yaml(plain), encoding="utf-8")
    numbers = {"notes": made.notes, "same_as": account.same_as, "groups": account.table()}
    (folder / "merge.json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    notes = "".join(f"- {note}\n" for note in made.notes)
    (folder / "README.md").write_text(
        f"# {target.name}\n\n{type(made.merge).__name__} of {', '.join(account.labels)}, made by lit-ft {__version__}:"
        f" `lit-ft merge recipe.yaml --to DIR`.\n\n{notes}\n```yaml\n{write_yaml(plain)}```\n",
        encoding="utf-8",
    )


@contextmanager
def _bar(total: int) -> Iterator[Callable[[], None]]:
    from rich.progress import Progress

    with Progress(transient=True) as progress:
        task = progress.add_task("merging", total=total)
        yield lambda: progress.advance(task)


def _show(account: Account) -> None:
    """How large the changes of the inputs are (root mean square), and how alike, by groups of tensors."""
    from rich.console import Console
    from rich.table import Table

    rows = account.table()
    what = "change" if account.of_changes else "weight"
    grid = Table(
        "tensors", *(f"|{what}| {label}" for label in account.labels), "|result|", "cosine", "opposite", box=None
    )
    for row in rows if len(rows) <= 20 else rows[:10] + rows[-10:]:
        cosines, opposite = list(row["cosine"].values()), list(row["opposite"].values())
        grid.add_row(
            re.sub(r"^.*?(\d+)$", r"block \1", row["group"]) if row["group"][-1].isdigit() else row["group"],
            *(f"{value:.2e}" for value in row["change"].values()),
            f"{row['result']:.2e}",
            f"{sum(cosines) / len(cosines):.3f}" if cosines else "-",
            f"{sum(opposite) / len(opposite):.1%}" if opposite else "-",
        )
    console = Console()
    console.print(grid)
    for label in account.same_as:
        console.print(f"the result is {label}, bit by bit", markup=False)
