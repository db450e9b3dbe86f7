"""Where a key belongs that stands at the top, as in other tools."""

HABITS = {
    **dict.fromkeys(("optimizer", "network", "schedule", "metrics", "loss"), "model.{}"),
    **dict.fromkeys(("lr", "learning_rate", "weight_decay"), "model.optimizer.{}"),
    **dict.fromkeys(("lr_scheduler", "scheduler"), "model.schedule"),
    **dict.fromkeys(("batch_size", "path", "num_workers", "max_length"), "data.{}"),
    **dict.fromkeys(("seed", "random_seed"), "seed_everything"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("dataset", "datamodule"), "data"),
}


def elsewhere(key: str) -> str:
    """Where a key belongs, as a clause for an error message; empty where nothing is known of it.

    Args:
        key: As it was written at the top of a file, or behind ``--``.

    Example:
        >>> elsewhere("lr_scheduler"), elsewhere("lr"), elsewhere("max_epochs"), elsewhere("colour")
        ('; here it is model.schedule', '; here it is model.optimizer.lr', '; here it is trainer.max_epochs', '')
    """
    first, _, rest = key.partition(".")
    place = HABITS.get(first, "").format("lr" if first == "learning_rate" else first)
    if not place:
        import inspect

        import lightning.pytorch as pl

        place = f"trainer.{first}" if first in inspect.signature(pl.Trainer).parameters else ""
    return f"; here it is {place}{'.' * bool(rest)}{rest}" if place else ""
