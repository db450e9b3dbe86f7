"""Results of a study: gathered from its runs, written for readers and programs, known to be stale when code moves."""

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from lit_ft.core.report import versions
from lit_ft.studies.code import PACKAGE, class_paths, files_of, tree_digest
from lit_ft.studies.expression import Values
from lit_ft.studies.plan import Planned
from lit_ft.studies.study import Study
from lit_ft.studies.verdict import Judged, headline, judge, overall, plain


def gather(study: Study, planned: Sequence[Planned]) -> Values:
    """``values[arm][measure]``: vectors over the seeds of the study, read from the run folders."""
    values: dict[str, dict[str, np.ndarray]] = {}
    for arm in study.arms:
        own = {run.seed: run.folder for run in planned if run.arm == arm and run.final}
        values[arm] = {
            name: np.array([measure.read(own[seed]) for seed in study.seeds]) for name, measure in study.measure.items()
        }
    return values


def judge_study(study: Study, values: Values) -> list[Judged]:
    """Every expectation of a study, judged."""
    return [judge(text, values, len(study.seeds)) for text in study.expect]


def result_of(study: Study, planned: Sequence[Planned], values: Values, judged: Sequence[Judged]) -> dict[str, Any]:
    """What ``study.json`` and a recorded result hold."""
    return {
        "study": study.name,
        "paper": study.paper.get("id", ""),
        "claim": study.claim,
        "verdict": overall(judged),
        "headline": headline(judged),
        "expect": plain(judged),
        "seeds": study.seeds,
        "values": {arm: {name: list(map(float, v)) for name, v in own.items()} for arm, own in values.items()},
        "note": study.note,
        "scale": study.scale,
        "date": date.today().isoformat(),
        "hardware": f"{platform.machine()}, {platform.system()}",
        "versions": versions(),
        "config_digest": study_digest(study),
        "classes": class_digests(planned),
    }


def study_digest(study: Study) -> str:
    """Digest of what the study file and its base configs say, comments and layout left out."""
    parts = [yaml.safe_load(Path(file).read_text(encoding="utf-8")) for file in study.base]
    parts += [yaml.safe_load(Path(stage["config"]).read_text()) for stage in study.stages if stage.get("config")]
    said = {"arms": study.arms, "stages": study.stages, "base": parts, "expect": study.expect}
    said["measure"] = {name: [measure.key, measure.take] for name, measure in study.measure.items()}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def class_digests(planned: Sequence[Planned]) -> dict[str, str]:
    """Digest of the file of every class of this package that the runs name."""
    found: dict[str, str] = {}
    for path in sorted({path for run in planned for path in class_paths(run.config)}):
        for file in files_of(path.rpartition(".")[0], path.rpartition(".")[2]):
            found[str(file.relative_to(PACKAGE))] = tree_digest(file)
    return found


def stale(result: Mapping[str, Any], study: Study) -> list[str]:
    """Why a recorded result may no longer be what the runs would give; empty when it is fresh."""
    reasons = []
    if result["config_digest"] != study_digest(study):
        reasons.append("the study or its configs changed")
    for name, digest in result["classes"].items():
        file = PACKAGE / name
        if not file.exists() or tree_digest(file) != digest:
            reasons.append(f"{name} changed")
    return reasons


def verdict_again(result: Mapping[str, Any], study: Study) -> str:
    """The verdict of the recorded values under the expectations of the study file."""
    values = {arm: {n: np.array(v) for n, v in own.items()} for arm, own in result["values"].items()}
    return overall([judge(text, values, len(result["seeds"])) for text in study.expect])
