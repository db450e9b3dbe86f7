"""Results of a study: gathered from its runs, judged, and written for readers and programs."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np

from lit_ft.core.errors import ConfigError
from lit_ft.studies.code import PACKAGE, class_paths, file_of, tree_digest
from lit_ft.studies.expression import Values
from lit_ft.studies.measures import placed
from lit_ft.studies.plan import Planned, drawn_keys
from lit_ft.studies.staleness import study_digest
from lit_ft.studies.study import Study
from lit_ft.studies.verdict import ClaimVerdict, judge_claim, main_of, plain


def gather(
    study: Study,
    planned: Sequence[Planned],
    seeds: Sequence[int],
    record: Mapping[str, Any] | None = None,
    kept: Sequence[int] = (),
) -> Values:
    """``values[arm][measure]``: vectors over seeds, read from the run folders.

    Args:
        study: The study.
        planned: Its runs.
        seeds: Which of its seeds.
        record: What was recorded before.
        kept: The seeds whose values are taken from there.
    """
    by_folder = {run.folder: run for run in planned}
    values: dict[str, dict[str, np.ndarray]] = {}
    for arm in study.arms:
        found: dict[str, list[float]] = {name: [] for name in study.measure}
        own = {run.seed: run for run in planned if run.arm == arm and run.final}
        for seed in seeds:
            if record is not None and seed in kept:
                for name in found:
                    found[name].append(record["values"][arm][name][record["seeds"].index(seed)])
                continue
            run: Planned | None = own[seed]
            while run is not None:  # back through the stages
                for name, measure in study.measures_of(run.stage).items():
                    with placed(f"measure.{name}"):
                        found[name].append(measure.read(run.folder))
                run = None if run.after is None else by_folder[run.after]
        values[arm] = {name: np.array(numbers) for name, numbers in found.items()}
    return values


def judge_study(study: Study, values: Values, looks: int = 1) -> list[ClaimVerdict]:
    """Every claim of a study, judged."""
    return [
        judge_claim(claim.says, claim.expect, [*study.given, *claim.given], claim.main, values, looks)
        for claim in study.claims
    ]


def keys_of(planned: Sequence[Planned]) -> dict[str, dict[str, str]]:
    """``keys[arm][seed]``: what decides the runs of a seed, those of its earlier stages included."""
    keys: dict[str, dict[str, str]] = {}
    for run in planned:
        if run.final:
            keys.setdefault(run.arm, {})[str(run.seed)] = run.key[:20]
    return keys


def recorded_seeds(record: Mapping[str, Any], study: Study, planned: Sequence[Planned]) -> list[int]:
    """Seeds of a record whose runs would be the same again: study, data and code of every arm are what they were."""
    if not record.get("keys") or record["config_digest"] != study_digest(asdict(study)):
        return []
    now, then = keys_of(planned), record["keys"]
    return [
        seed for seed in record["seeds"]
        if all(then.get(arm, {}).get(str(seed)) == own.get(str(seed)) is not None for arm, own in now.items())
    ]  # fmt: skip


def result_of(
    study: Study,
    planned: Sequence[Planned],
    seeds: Sequence[int],
    tuned: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    kept: Sequence[int] = (),
) -> dict[str, Any]:
    """What ``study.json`` and a recorded result hold.

    Args:
        study: The study.
        planned: Its runs.
        seeds: The seeds that it is judged with.
        tuned: What was chosen for its arms.
        record: What was recorded before.
        kept: The seeds whose values are taken from there.
    """
    from lit_ft.running.report import git_state, versions

    values = gather(study, planned, seeds, record, kept)
    here = {"date": date.today().isoformat(), "hardware": hardware(), "versions": versions()}
    parts = [{**part, "seeds": [s for s in part["seeds"] if s in kept]} for part in (record or {}).get("made", [])]
    new = [seed for seed in seeds if seed not in kept]
    parts.append({"seeds": new, "commit": (git_state() or {}).get("commit"), **here})
    return {
        "study": study.name,
        "paper": study.paper,
        **verdicts(study, values, len(study.looks)),
        "seeds": list(seeds),
        "looks": len(study.looks),
        "drawn": drawn_keys(planned),
        **({"tuned": dict(tuned)} if tuned else {}),
        "values": {arm: {name: list(map(float, v)) for name, v in own.items()} for arm, own in values.items()},
        "note": study.note,
        "scale": study.scale,
        **here,
        "made": [part for part in parts if part["seeds"]],
        "config_digest": study_digest(asdict(study)),
        "classes": class_digests(planned),
        "keys": {arm: {str(s): own[str(s)] for s in seeds} for arm, own in keys_of(planned).items()},
    }


def verdicts(study: Study, values: Values, looks: int = 1) -> dict[str, Any]:
    """The part of a result that follows from its values and what the study file expects."""
    claims = judge_study(study, values, looks)
    main = main_of(claims)
    return {"verdict": main.verdict, "headline": main.headline(), "claims": plain(claims)}


def is_settled(result: Mapping[str, Any]) -> bool:
    """Whether further seeds would be waited for by no claim."""
    return all(ClaimVerdict.of(claim).is_settled for claim in result["claims"])


def hardware() -> str:
    """What the runs of this machine run on, in one line."""
    import torch

    devices = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([platform.machine(), platform.system(), f"{os.cpu_count()} cores", *devices])


def as_text(result: Mapping[str, Any]) -> str:
    """A result as the text of its file."""
    return json.dumps(result, indent=1, ensure_ascii=False) + "\n"


def class_digests(planned: Sequence[Planned]) -> dict[str, str]:
    """Digest of the file of every class of this package that the runs name."""
    ours = {path for run in planned for path in class_paths(run.config) if path.startswith(f"{PACKAGE.name}.")}
    files = {name: file_of(name) for name in sorted(path.rpartition(".")[2] for path in ours)}
    return {name: tree_digest(file) for name, file in files.items() if file is not None}


def confirmed(result: Mapping[str, Any], study: Study, planned: Sequence[Planned], values: Values) -> dict[str, Any]:
    """A recorded result as one of the present code: the runs of its first seed, made again, gave what it says.

    Args:
        result: What was recorded.
        study: The study, with that seed alone.
        planned: Its runs.
        values: What they gave.

    Raises:
        ConfigError: A value differs by more than a millionth; the study wants recording again.
    """
    from lit_ft.running.report import versions

    seed = study.seeds[0]
    for arm, own in values.items():
        for name, (value,) in own.items():
            before = result["values"][arm][name][result["seeds"].index(seed)]
            if not np.isclose(value, before, rtol=1e-6, atol=1e-9):
                allowed = f"{before:.8g}, as recorded; another value wants the whole study recorded again"
                raise ConfigError(f"--confirm {study.name}: {arm}.{name} of seed {seed}", float(value), allowed)
    said = {"note": study.note, "scale": study.scale, "classes": class_digests(planned)}
    said |= verdicts_again(result, study)
    return {
        **result,
        **said,
        "confirmed": {"seed": seed, "date": date.today().isoformat(), "versions": versions()},
    }


def verdicts_again(result: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """The verdicts of the recorded values under what the study file expects now."""
    values = {arm: {n: np.array(v) for n, v in own.items()} for arm, own in result["values"].items()}
    return verdicts(study, values, result.get("looks", 1))
