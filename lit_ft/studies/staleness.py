"""Whether a recorded result still is what its study would give: by the text of configs and the code of classes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lit_ft.core.yaml_text import read_yaml
from lit_ft.sources.asset_table import ASSETS, PREFIX
from lit_ft.studies.code import file_of, tree_digest


def study_digest(content: Mapping[str, Any], root: Path = Path()) -> str:
    """Digest of what a study and its configs say of its runs; comments, layout, prose and places do not count.

    Nor do claims and expectations, which are judged anew from the recorded values.

    Args:
        content: What the study file says.
        root: Folder that its base configs are relative to.
    """
    stages = content.get("stages") or []
    base = content["base"]
    files = [*([base] if isinstance(base, str) else base), *(s["config"] for s in stages if s.get("config"))]
    measures = {name: {"key": m} if isinstance(m, str) else m for name, m in content["measure"].items()}
    said = {
        "arms": {arm: overrides or {} for arm, overrides in content["arms"].items()},
        "stages": [{key: value for key, value in stage.items() if key != "config"} for stage in stages],
        **({} if content.get("seeded") is None else {"seeded": content["seeded"]}),
        **({"tune": content["tune"]} if content.get("tune") else {}),
        "base": [_content(root / file) for file in files],
        "measure": {
            name: [m["key"], m.get("take", "last"), *([m["stage"]] if m.get("stage") else [])]
            for name, m in measures.items()
        },
    }
    if revised := _revised(said):
        said["assets"] = revised
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def _revised(node: Any) -> dict[str, int]:
    """The packaged assets that a study names and that hold other rows than at first, with their revision."""
    if isinstance(node, Mapping):
        return {name: revision for value in node.values() for name, revision in _revised(value).items()}
    if isinstance(node, list):
        return {name: revision for value in node for name, revision in _revised(value).items()}
    asset = ASSETS.get(node.removeprefix(PREFIX)) if isinstance(node, str) and node.startswith(PREFIX) else None
    return {node: asset.revision} if asset is not None and asset.revision > 1 else {}


def _content(file: Path) -> Any:
    return read_yaml(file.read_text(encoding="utf-8"), str(file)) if file.exists() else None


def stale(result: Mapping[str, Any], content: Mapping[str, Any], root: Path = Path()) -> list[str]:
    """Why a recorded result may no longer be what the runs would give; empty when it is fresh.

    Args:
        result: What was recorded.
        content: What the study file says now.
        root: Folder that its base configs are relative to.
    """
    reasons = [] if result["config_digest"] == study_digest(content, root) else ["the study or its configs changed"]
    if "drawn" not in result and content.get("seeded") is None:
        reasons.append("its seeds drew no data")
    for name, digest in result["classes"].items():
        file = file_of(name)
        if file is None or tree_digest(file) != digest:
            reasons.append(f"{name} changed")
    return reasons


def draws_data(result: Mapping[str, Any], content: Mapping[str, Any]) -> bool:
    """Whether the seeds of a recorded result drew rows, and not weights alone."""
    drawn = result.get("drawn", content.get("seeded") or ())
    return any(key.startswith("data.") for key in drawn)
