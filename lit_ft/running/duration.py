"""Times for a reader."""


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Example:
        >>> [duration(seconds) for seconds in (0.25, 8, 100, 3900, 100000)]
        ['0.25 s', '8 s', '1 min 40 s', '1 h 5 min', '1 d 3 h']
    """
    for size, name, below, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)} {name} {int(seconds % size // below)} {smaller}"
    return f"{seconds:.2f} s" if 0 < seconds < 1 else f"{int(seconds)} s"
