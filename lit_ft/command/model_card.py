"""The card of an exported model: what it was made of, from what, and how well it did."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_ft.core.yaml_text import write_yaml

HEAD = "---\nlibrary_name: {library}\ntags: [lit_ft]\n---\n"


def model_card(config: Mapping[str, Any], report: Mapping[str, Any], weights: str, kind: str, library: str) -> str:
    """Markdown with base, data, settings and results.

    Args:
        config: The resolved configuration of the run.
        report: Its report.
        weights: Which of its weights these are, in words.
        kind: What is in the folder, in words (``an adapter``).
        library: What loads it.

    Example:
        >>> made = {"network": {"path": "gpt2"}, "optimizer": None}
        >>> config = {"model": {"class_path": "lit_ft.methods.DPO", "init_args": made}, "data": {"class_path": "Mine"}}
        >>> card = model_card(config, {"name": "first", "metrics": {"val/loss": 0.25}}, "step 3", "weights", "peft")
        >>> [line for line in card.splitlines() if line.startswith(("#", "|", "Base"))][:3]
        ['# first', 'Base: gpt2.', '## Data']
        >>> "| val/loss | 0.25 |" in card
        True
    """
    model, arguments = config["model"], dict(config["model"].get("init_args") or {})
    network = arguments.pop("network", None) or {}
    settings = {"model": {"class_path": model.get("class_path"), "init_args": arguments}}
    settings |= {key: config[key] for key in ("trainer", "seed_everything", "monitor") if config.get(key) is not None}
    settings["network"] = {key: value for key, value in network.items() if value not in (None, False, {}, [])}
    results = {key: value for key, value in (report.get("metrics") or {}).items() if key.startswith(("val/", "test/"))}
    table = [f"| {key} | {value:.4g} |" for key, value in sorted(results.items()) if isinstance(value, (int, float))]
    parts = [
        HEAD.format(library=library),
        f"# {report.get('name', 'a run')}\n",
        f"This folder holds {kind} of {str(model.get('class_path')).rpartition('.')[2]}, {weights}.\n",
        f"Base: {base_of(network)}.\n",
        f"## Data\n\n```yaml\n{write_yaml(config['data'])}```\n" if config.get("data") else "",
        f"## Settings\n\n```yaml\n{write_yaml(_without_nothing(settings))}```\n",
        "## Results\n",
        "\n".join(["Logged last in the run.\n", "| key | value |", "| --- | --- |", *table])
        if table
        else "None logged.",
        f"\nMade with `{report['command']}`." if report.get("command") else "",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def base_of(network: Mapping[str, Any]) -> str:
    """What a network began from, in words.

    Example:
        >>> base_of({"path": "model-q4.gguf"}), base_of({"config": {"model_type": "mlp"}})
        ('model-q4.gguf (its quantised weights expanded to full precision)', 'random weights (mlp)')
    """
    path = network.get("path")
    if path is None:
        return f"random weights ({(network.get('config') or {}).get('model_type', 'a network of its own')})"
    expanded = " (its quantised weights expanded to full precision)" if Path(str(path)).suffix == ".gguf" else ""
    return f"{path}{expanded}"


def _without_nothing(node: Any) -> Any:
    """Settings without those that say nothing, so that a card is read and not scrolled."""
    if isinstance(node, Mapping):
        kept = {key: _without_nothing(value) for key, value in node.items()}
        return {key: value for key, value in kept.items() if value is not None and value != {}}
    return node
