"""What a path that leads nowhere was meant to be: a place on this machine, or the id of something on a hub."""

from __future__ import annotations

from pathlib import Path

from lit_ft.core.errors import nearest


def may_be_id(path: str) -> bool:
    """Whether it has the form of a hub id, ``name`` or ``user/name``, as the hub's own library sees it."""
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(path)
    except HFValidationError:
        return False
    return True


def begins_here(path: str) -> bool:
    """Whether the folder before the last slash is here, so that the rest of the path is likely a slip."""
    return "/" in path and Path(path).expanduser().parent.is_dir()


def absence(path: str) -> str:
    """Where nothing is, with the nearest name that there is.

    Args:
        path: Leads to no file and no folder.
    """
    place = Path(path).expanduser().absolute()
    known = next(folder for folder in place.parents if folder.is_dir())
    names = [entry.name for entry in known.iterdir()] if known != known.parent else []
    return f"nothing is at {place}{nearest(place.relative_to(known).parts[0], names)}"


def silent_hub() -> str | None:
    """Why the hub does not answer, told by one question: the libraries ask for most of a minute; None where it does."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=10.0)
    except Exception as error:  # of the HTTP library that huggingface_hub has chosen
        return str(error) or type(error).__name__
    return None
