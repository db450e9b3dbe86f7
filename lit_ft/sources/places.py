"""Whether a missing path was meant as a local file or as an id on the hub."""

from __future__ import annotations

from pathlib import Path

from lit_ft.core.errors import nearest


def may_be_id(path: str) -> bool:
    """Whether a path has the form of a hub id, ``name`` or ``user/name``, according to ``huggingface_hub``.

    Example:
        >>> [may_be_id(path) for path in ("gpt2", "HuggingFaceTB/SmolLM2-135M", "runs/mine/checkpoint", "my rows.csv")]
        [True, True, False, False]
    """
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def begins_here(path: str) -> bool:
    """Whether the folder before the last slash exists, so that the rest of the path is likely a typing error.

    Example:
        >>> Path("rows").mkdir()
        >>> begins_here("rows/trian.csv"), begins_here("stanfordnlp/imdb")
        (True, False)
    """
    return "/" in path and Path(path).expanduser().parent.is_dir()


def absence(path: str) -> str:
    """A message that names the missing place, with the nearest existing name.

    Args:
        path: A path at which there is no file and no folder.

    Example:
        >>> Path("train.csv").touch()
        >>> absence("trian.csv").endswith("trian.csv (did you mean 'train.csv'?)")
        True
    """
    place = Path(path).expanduser().absolute()
    known = next(folder for folder in place.parents if folder.is_dir())
    names = [entry.name for entry in known.iterdir()] if known != known.parent else []
    return f"nothing is at {place}{nearest(place.relative_to(known).parts[0], names)}"


def silent_hub() -> str | None:
    """Why the hub does not answer a single request (the libraries retry for most of a minute); None if it answers.

    Example:
        >>> from unittest.mock import patch
        >>> with patch("huggingface_hub.utils.get_session", side_effect=OSError("no network")):
        ...     silent_hub()
        'no network'
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10.0)
    except Exception as error:  # of the HTTP library that huggingface_hub has chosen
        return str(error) or type(error).__name__
    return None
