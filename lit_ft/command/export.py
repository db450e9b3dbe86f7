"""``lit-ft export RUN --to DIR``: a folder that ``from_pretrained`` loads."""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_ft.command.model_card import model_card
from lit_ft.core.adapters import adapted
from lit_ft.core.errors import ConfigError
from lit_ft.running.report import read_report


def export_command(argv: Sequence[str]) -> int:
    """Write the trained network of a run in the format of its family."""
    parser = argparse.ArgumentParser("lit-ft export", description="The network of a run, for other libraries.")
    parser.add_argument("run", metavar="RUN", help="run folder")
    parser.add_argument("--to", required=True, metavar="DIR", help="folder to write; must not exist or be empty")
    parser.add_argument("--ckpt_path", metavar="WHICH", help="best, last or a file; best if there is one")
    parser.add_argument("--merge", action="store_true", help="add an adapter to the weights of its base")
    options, further = parser.parse_known_args(list(argv))
    target = Path(options.to)
    if target.exists() and any(target.iterdir()):
        raise ConfigError("--to", options.to, "a folder that does not exist yet or is empty")
    from lit_ft.command.run import load_run
    from lit_ft.command.run_folders import Place, say
    from lit_ft.models.adapter_export import merged, name_base
    from lit_ft.running.run_folder import START, held

    which = [] if options.ckpt_path is None else [f"--ckpt_path={options.ckpt_path}"]
    build = load_run(options.run, [*further, *which], "export")
    module = build.model
    network = getattr(module, "network", None)
    if network is None or not hasattr(network, "save_pretrained"):
        raise ConfigError(
            "RUN", options.run, f"a run whose network has save_pretrained; this is {type(network).__name__}"
        )
    say("export", Place(None, build.checkpoint))
    spec = getattr(module, "spec", None)
    kind = "an adapter" if adapted(network) and not options.merge else "the weights"
    library = "peft" if kind == "an adapter" else "transformers"
    if options.merge:
        stored = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
        network = merged(network).to(stored)  # rounded once
        kind += ", an adapter merged into them,"
    aside = target.with_name(f".{target.name}.tmp")
    aside.mkdir(parents=True, exist_ok=True)
    with held(aside, "--to"):  # two exports at once would mix their files
        for left in aside.iterdir():  # of an export that was killed
            if left.name != START:
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        save_network(network, module, aside)
        name_base(network, spec, aside, target)
        card = model_card(build.plain(), read_report(Path(options.run)), _which(build.checkpoint), kind, library)
        (aside / "README.md").write_text(card, encoding="utf-8")
        (aside / START).unlink()
        for_others(aside)
        aside.replace(target)
    if (target / "modules.json").exists() and getattr(build.datamodule, "template", None) is not None:
        print(
            "note: sentence-transformers embeds bare texts, and this run pooled them within a template (data.template):"
            " its vectors are those of lit_ft's encode(texts, template), not of that library's encode(texts)"
        )
    print(f"written: {target} ({', '.join(sorted(path.name for path in target.iterdir()))})")
    return 0


def save_network(network: Any, module: Any, folder: Path) -> None:
    """Write a network of ``transformers`` with the classes, the problem and the tokenizer that a module knows.

    Args:
        network: Changed by this: its configuration names the classes.
        module: The LightningModule that trained it.
        folder: Where.
    """
    name_classes(network, getattr(module, "class_names", None) or ())
    problem = getattr(module, "problem", None)
    if problem is not None and hasattr(getattr(network, "config", None), "problem_type"):
        network.config.problem_type = problem  # by which pipelines choose between softmax, sigmoid and numbers
    network.save_pretrained(folder)
    if getattr(module, "tokenizer", None) is not None:
        module.tokenizer.save_pretrained(folder)


def _which(checkpoint: Path | None) -> str:
    from lit_ft.command.run_folders import best_of, step_of

    return "" if checkpoint is None else f"those of step {step_of(checkpoint)}{best_of(checkpoint)}"


def for_others(folder: Path) -> None:
    """Let whoever may read new files of this user read these: some writers keep theirs to themselves.

    Example:
        >>> Path("made").mkdir(mode=0o700)
        >>> for_others(Path("made"))
        >>> Path("made").stat().st_mode & 0o777 == 0o777 & ~umask()
        True
    """
    for path in (folder, *folder.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask())


def umask() -> int:
    """What new files of this process are not allowed.

    Example:
        >>> 0 <= umask() <= 0o777
        True
    """
    mask = os.umask(0)
    os.umask(mask)
    return mask


def name_classes(network: Any, names: Sequence[str]) -> None:
    """Write the names of the classes into the configuration of a network of ``transformers``.

    Args:
        network: With or without an adapter.
        names: Names of the classes by number; none leaves the configuration as it is.
    """
    config = getattr(network, "config", None)
    if not names or config is None or not hasattr(config, "id2label"):
        return
    more = range(len(names), max(len(names), config.num_labels))
    config.id2label = dict(enumerate([*names, *(f"LABEL_{number}" for number in more)]))
    config.label2id = {name: number for number, name in config.id2label.items()}
