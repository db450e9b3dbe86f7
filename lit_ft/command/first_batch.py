"""The first training batch of a configuration, without a training."""

from typing import Any


def first_batch(built: Any) -> Any:
    """Set up the data of ``lit_ft.command.run.build(...)`` as a fit would, and take the first batch."""
    trainer = built.make_trainer([], None)
    module, data = built.model, built.datamodule
    if data is not None:  # data modules read facts (the tokenizer) from the trainer's module
        data.trainer, trainer.strategy._lightning_module = trainer, module
        trainer.datamodule, module.trainer = data, trainer
        data.prepare_data()
        data.setup("fit")
    return next(iter(data.train_dataloader() if data is not None else module.train_dataloader()))
