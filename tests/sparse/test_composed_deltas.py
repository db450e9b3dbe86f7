"""A run that begins at a network and the sparse deltas of several runs, exactly once."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from lit_ft.core.errors import ConfigError
from lit_ft.core.parameters import ParameterIndex
from lit_ft.sparse.composed_deltas import ComposedDeltas
from lit_ft.sparse.lottery_ticket import LotteryTicket
from lit_ft.sparse.sparse_delta import SparseDelta
from lit_ft.testing import ForeignData, ForeignModule, difference, fit_foreign


class Still(ForeignModule):
    """Does not move, so that the end is the start."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def two_deltas(folder: Path) -> list[str]:
    files = []
    for number, density in enumerate((0.2, 0.3)):
        ticket = LotteryTicket(4, density=density, delta=f"{number}.safetensors")
        fit_foreign([ticket], max_epochs=1 + number, default_root_dir=folder)
        files.append(str(folder / f"{number}.safetensors"))
    return files


def weights(module: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in ParameterIndex(module).parameters.items()}


def test_a_run_begins_at_the_sum(tmp_path: Path) -> None:
    files = two_deltas(tmp_path)
    callback = ComposedDeltas(files)
    module, trainer = fit_foreign([callback], module=Still(), default_root_dir=tmp_path)
    expected = weights(Still())
    deltas = [SparseDelta.load(file) for file in files]
    for delta in deltas:
        for name, mask in delta.choices.items():
            expected[name][mask] += delta.values[name]
    for name, value in weights(module).items():
        torch.testing.assert_close(value, expected[name], atol=1e-7, rtol=1e-6)
    assert not torch.equal(weights(module)["4.weight"], weights(Still())["4.weight"])
    assert callback.report()["entries"] == [delta.numel for delta in deltas]
    assert 0 < callback.report()["overlap"][0] < 1
    trainer.save_checkpoint(tmp_path / "sum.ckpt")  # has them: they are not added twice
    again, _ = fit_foreign([ComposedDeltas(files)], module=Still(), max_epochs=4, resume=tmp_path / "sum.ckpt")
    assert all(torch.equal(a, b) for a, b in zip(weights(module).values(), weights(again).values(), strict=True))


def test_an_evaluation_leaves_the_weights_as_they_were(tmp_path: Path) -> None:
    callback, module = ComposedDeltas(two_deltas(tmp_path)), Still()
    before = weights(module)
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    values = []
    for _ in range(2):
        trainer = pl.Trainer(accelerator="cpu", callbacks=[callback], enable_checkpointing=False, **quiet)
        values.append(trainer.validate(module, ForeignData(), verbose=False)[0]["val/loss"])
        assert not difference(weights(module), before)
    plain = pl.Trainer(accelerator="cpu", enable_checkpointing=False, **quiet)
    assert values[0] == values[1] != plain.validate(module, ForeignData(), verbose=False)[0]["val/loss"]


def test_another_base_and_an_absent_file_are_refused(tmp_path: Path) -> None:
    files = two_deltas(tmp_path)
    other = Still()
    with torch.no_grad():
        other.model[0].weight.add_(1)
    with pytest.raises(ConfigError, match="the base of this delta"):
        fit_foreign([ComposedDeltas(files)], module=other)
    with pytest.raises(ConfigError, match="files"):
        ComposedDeltas([str(tmp_path / "nothing.safetensors")])


@pytest.mark.real
@pytest.mark.slow
def test_two_tasks_of_minilm_in_one_network(tmp_path: Path) -> None:
    from lit_ft.command.run import fit, load_run

    small = ["--data.max_rows=32", "--data.batch_size=8", "--data.max_length=16", "--trainer.limit_val_batches=0"]
    small += ["--trainer.num_sanity_val_steps=0", "--seed_everything=0"]
    for task in ("sms-spam", "sarcasm-headlines"):
        fit(
            [
                *("-c", "configs/sparse/lottery_ticket.yaml", f"--data.path=packaged:{task}", *small),
                *(f"--run_dir={tmp_path / task}", "--trainer.max_steps=4"),
            ]
        )
    files = [str(tmp_path / task / "delta.safetensors") for task in ("sms-spam", "sarcasm-headlines")]
    callback = f"--trainer.callbacks.ComposedDeltas.files={files}"
    overlay = tmp_path / "still.yaml"
    overlay.write_text("model: {init_args: {optimizer: {init_args: {lr: 0.0}}}}\n")
    still = ["-c", "configs/sparse/composed_deltas.yaml", "-c", str(overlay), "--trainer.max_steps=1"]
    still += ["--trainer.callbacks.Forgetting.limit_batches=1"]
    fit([*still, *small, callback, f"--run_dir={tmp_path / 'both'}"])
    fit([*still, *small, f"--run_dir={tmp_path / 'base'}"])
    composed, base = (weights(load_run(str(tmp_path / name)).model) for name in ("both", "base"))
    spam, sarcasm = (SparseDelta.load(file) for file in files)
    both = SparseDelta.sum([spam, sarcasm])
    assert max(spam.numel, sarcasm.numel) < both.numel < spam.numel + sarcasm.numel
    for name, value in base.items():
        if name in both.choices:
            value[both.choices[name]] += both.values[name]
        torch.testing.assert_close(composed[name], value, atol=1e-7, rtol=1e-6)
