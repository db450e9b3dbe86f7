"""Where a key belongs that stands at the top, as in other tools."""

HABITS = {  # nothing heavy is imported for it
    **dict.fromkeys(("optimizer", "network", "schedule", "metrics", "loss"), "model.{}"),
    **dict.fromkeys(("lr", "learning_rate", "weight_decay"), "model.optimizer.{}"),
    **dict.fromkeys(("lr_scheduler", "scheduler"), "model.schedule"),
    **dict.fromkeys(("batch_size", "path", "num_workers", "max_length"), "data.{}"),
    **dict.fromkeys(("seed", "random_seed"), "seed_everything"),
    **dict.fromkeys(("epochs", "num_epochs", "num_train_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("dataset", "datamodule"), "data"),
    **dict.fromkeys(
        (
            "max_epochs",
            "max_steps",
            "max_time",
            "min_epochs",
            "accelerator",
            "devices",
            "num_nodes",
            "strategy",
            "precision",
            "callbacks",
            "logger",
            "profiler",
            "fast_dev_run",
            "overfit_batches",
            "accumulate_grad_batches",
            "gradient_clip_val",
            "val_check_interval",
            "check_val_every_n_epoch",
            "log_every_n_steps",
            "limit_train_batches",
            "limit_val_batches",
            "limit_test_batches",
            "deterministic",
            "enable_progress_bar",
            "num_sanity_val_steps",
        ),
        "trainer.{}",
    ),
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
    return f"; here it is {place}{'.' * bool(rest)}{rest}" if place else ""
