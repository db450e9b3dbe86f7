"""The configs that come with the package: found by their names wherever one stands."""

from pathlib import Path

from lit_ft.core.errors import ConfigError, nearest

PACKAGE = Path(__file__).parents[1]
PREFIX = "configs/"


def config_folder() -> Path:
    """Where the configs are: in the repository beside the package, or inside an installed package."""
    inside = PACKAGE / "configs"
    return inside if inside.exists() else PACKAGE.parent / "configs"


def found_config(path: str) -> str:
    """A file that is there, or else the one of this name that comes with the package.

    Args:
        path: As it was written, such as ``configs/vision/digits.yaml``.

    Example:
        >>> Path(found_config("configs/vision/digits.yaml")).name, found_config("mine.yaml")
        ('digits.yaml', 'mine.yaml')
        >>> found_config("configs/vision/digit.yaml")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --config: given ...; allowed: ... (did you mean 'configs/vision/digits.yaml'?)
    """
    if Path(path).expanduser().exists() or not path.startswith(PREFIX):
        return path
    folder = config_folder()
    file = folder / path.removeprefix(PREFIX)
    if file.is_file():
        return str(file)
    names = [f"{PREFIX}{one.relative_to(folder).as_posix()}" for one in folder.rglob("*.yaml")]
    allowed = f"a path that exists, or a config that comes with lit-ft (lit-ft methods){nearest(path, names)}"
    raise ConfigError("--config", path, allowed)


def copied(path: str) -> Path:
    """Put a config that comes with the package into the folder where one stands, to be changed.

    Example:
        >>> copied("configs/vision/digits.yaml")
        PosixPath('digits.yaml')
        >>> copied("configs/vision/digits.yaml")
        Traceback (most recent call last):
            ...
        lit_ft.core.errors.ConfigError: --copy: given 'configs/vision/digits.yaml'; allowed: ... digits.yaml is here
    """
    source = Path(found_config(path if path.startswith(PREFIX) else f"{PREFIX}{path}"))
    target = Path(source.name)
    if target.exists():
        raise ConfigError("--copy", path, f"a config of another name: a file {target} is here")
    target.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    return target
