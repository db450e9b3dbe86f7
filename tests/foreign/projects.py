"""Projects from the package index that nobody here wrote, in small: each trains for three batches with given callbacks.

``make test-foreign`` runs them in an environment of their own; ``python -m tests.foreign.projects`` prints the table of
the README.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

Weights = dict[str, Any]
Made = tuple[Any, Any, Any]  # a module, its training loader, its validation loader


class Others(pl.LightningDataModule):
    """Validation rows as a data module of their own."""

    def __init__(self, make: Callable[[], Made]) -> None:
        super().__init__()
        self.make = make

    def val_dataloader(self) -> Any:
        return self.make()[2]


def trained(make: Callable[[], Made], *callbacks: Any, epochs: int = 1, **fit: Any) -> Weights:
    """The weights of a module after epochs of three batches."""
    pl.seed_everything(0, verbose=False)
    module, train, val = make()
    pl.seed_everything(1, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs, limit_train_batches=3, limit_val_batches=1, accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    trainer.fit(module, train, val, **fit)
    return dict(module.state_dict())


def forecasting(name: str) -> Made:
    import pandas as pd
    import pytorch_forecasting as pf

    time, rng = np.tile(np.arange(40), 4), np.random.default_rng(0)
    frame = pd.DataFrame({"time": time, "group": np.repeat(list("abcd"), 40), "value": rng.normal(size=160)})
    more: dict[str, Any] = {}
    if name == "TemporalFusionTransformer":
        more = {"static_categoricals": ["group"], "add_relative_time_idx": True}
    data = pf.TimeSeriesDataSet(
        frame, time_idx="time", target="value", group_ids=["group"], max_encoder_length=8, max_prediction_length=4,
        time_varying_unknown_reals=["value"], **more,
    )  # fmt: skip
    sizes = {} if name == "NBeats" else {"hidden_size": 8}
    module = getattr(pf, name).from_dataset(data, learning_rate=0.01, log_interval=-1, **sizes)
    return module, data.to_dataloader(train=True, batch_size=16), data.to_dataloader(train=False, batch_size=16)


def molecules() -> Made:
    from chemprop import data, models
    from chemprop.nn import BinaryClassificationFFN, BondMessagePassing, MeanAggregation

    smiles = ["C", "CC", "CCO", "CCN", "c1ccccc1", "CC(=O)O", "CCCC", "OCCO"] * 3
    points = [data.MoleculeDatapoint.from_smi(smi, [float("O" in smi)]) for smi in smiles]
    rows = data.MoleculeDataset(points)
    module = models.MPNN(BondMessagePassing(d_h=16), MeanAggregation(), BinaryClassificationFFN(input_dim=16))
    return module, data.build_dataloader(rows, batch_size=8), data.build_dataloader(rows, batch_size=8, shuffle=False)


def graphs() -> Made:
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader as Graphs
    from torch_geometric.nn import GCNConv, global_mean_pool

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.enc, self.head = GCNConv(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            hidden = global_mean_pool(self.conv(batch.x, batch.edge_index).relu(), batch.batch)
            return nn.functional.cross_entropy(self.head(self.enc(hidden).tanh()), batch.y)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_loss", self.training_step(batch, batch_idx), batch_size=batch.num_graphs)

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.01)

    draw = torch.Generator().manual_seed(0)
    edges = torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])
    rows = [Data(x=torch.randn(4, 3, generator=draw), edge_index=edges, y=torch.tensor([i % 2])) for i in range(24)]
    return Net(), Graphs(rows, 8, shuffle=True), Graphs(rows, 8)


def cells(adversarial: bool) -> Made:
    import scvi
    from scvi.dataloaders import AnnDataLoader

    scvi.settings.verbosity = 40
    table = scvi.data.synthetic_iid(batch_size=30, n_genes=20)
    scvi.model.SCVI.setup_anndata(table, batch_key="batch", labels_key="labels")
    model = scvi.model.SCVI(table, n_hidden=8, n_latent=4)
    if adversarial:
        plan = scvi.train.AdversarialTrainingPlan(model.module, adversarial_classifier=True)
    else:
        plan = scvi.train.TrainingPlan(model.module)
    loaders = [AnnDataLoader(model.adata_manager, shuffle=shuffle, batch_size=20) for shuffle in (True, False)]
    return plan, *loaders


def gluon() -> Made:
    from gluonts.dataset.common import ListDataset
    from gluonts.torch import DeepAREstimator

    rng = np.random.default_rng(0)
    rows = ListDataset([{"start": "2020-01-01", "target": rng.normal(size=60)} for _ in range(8)], freq="D")
    estimator = DeepAREstimator(
        freq="D", prediction_length=4, context_length=8, hidden_size=8, batch_size=8, num_batches_per_epoch=3
    )
    changed = estimator.create_transformation().apply(rows, is_train=True)
    module = estimator.create_lightning_module()
    train = estimator.create_training_data_loader(changed, module)
    return module, train, estimator.create_validation_data_loader(changed, module)


def without_torchvision() -> None:
    """Load what is used of lightly: its packages import torchvision for parts that are not."""
    import sys
    from importlib import import_module
    from importlib.util import find_spec
    from types import ModuleType

    if "lightly.loss" in sys.modules:
        return
    place = find_spec("lightly").submodule_search_locations[0]  # type: ignore[union-attr, index]
    for package in ("lightly.loss", "lightly.models", "lightly.models.modules"):
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [f"{place}/{package.partition('.')[2].replace('.', '/')}"]
    sys.modules["torchvision"], sys.modules["torchvision.ops"] = (
        ModuleType("torchvision"),
        ModuleType("torchvision.ops"),
    )
    sys.modules["torchvision.ops"].StochasticDepth = nn.Identity  # type: ignore[attr-defined]
    try:
        import_module("lightly.models.utils")
    finally:
        del sys.modules["torchvision"], sys.modules["torchvision.ops"]


def pictures(name: str) -> Made:
    """Methods of lightly, put together as its examples are."""
    without_torchvision()
    from lightly.loss.dino_loss import DINOLoss
    from lightly.loss.negative_cosine_similarity import NegativeCosineSimilarity
    from lightly.loss.ntx_ent_loss import NTXentLoss
    from lightly.models.modules.heads import (
        BYOLPredictionHead,
        BYOLProjectionHead,
        DINOProjectionHead,
        MoCoProjectionHead,
        SimCLRProjectionHead,
    )
    from lightly.models.utils import update_momentum

    def backbone() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.ReLU())

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            head = {
                "SimCLR": lambda: SimCLRProjectionHead(16, 16, 8),
                "BYOL": lambda: BYOLProjectionHead(16, 16, 8),
                "MoCo": lambda: MoCoProjectionHead(16, 16, 8),
                "DINO": lambda: DINOProjectionHead(16, 16, 8, 12, freeze_last_layer=1),
            }[name]
            self.backbone, self.head, self.slow = backbone(), head(), nn.Sequential(backbone(), head())
            self.slow.load_state_dict(nn.Sequential(self.backbone, self.head).state_dict())
            self.slow.requires_grad_(False)
            self.guess = BYOLPredictionHead(8, 16, 8) if name == "BYOL" else nn.Identity()
            self.loss = {
                "SimCLR": lambda: NTXentLoss(),
                "BYOL": lambda: NegativeCosineSimilarity(),
                "MoCo": lambda: NTXentLoss(memory_bank_size=(32, 8)),
                "DINO": lambda: DINOLoss(output_dim=12),
            }[name]()

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            (one, two), _, _ = batch
            if name != "SimCLR":
                update_momentum(self.backbone, self.slow[0], m=0.9)
                update_momentum(self.head, self.slow[1], m=0.9)
            views = [self.guess(self.head(self.backbone(view))) for view in (one, two)]
            if name == "SimCLR":
                return self.loss(*views)
            with torch.no_grad():
                targets = [self.slow(view) for view in (two, one)]
            if name == "DINO":
                return self.loss(targets, views, epoch=self.current_epoch)
            return sum(self.loss(view, target) for view, target in zip(views, targets, strict=True)) / 2

        def on_after_backward(self) -> None:
            if name == "DINO":
                self.head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self.log("val_norm", self.backbone(batch[0][0]).norm(), batch_size=8)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], 0.1, momentum=0.9)

    draw = torch.Generator().manual_seed(0)
    views = [[torch.randn(3, 4, 4, generator=draw) for _ in range(2)] for _ in range(24)]
    rows = [(pair, i % 2, f"{i}.png") for i, pair in enumerate(views)]
    return Net(), DataLoader(rows, 8, shuffle=True), DataLoader(rows, 8)  # type: ignore[arg-type]


def neural(*callbacks: Any) -> Weights:
    import pandas as pd
    from neuralforecast import NeuralForecast
    from neuralforecast.models import NHITS

    dates, rng = pd.date_range("2020", periods=40), np.random.default_rng(0)
    frame = pd.concat(pd.DataFrame({"unique_id": i, "ds": dates, "y": rng.normal(size=40)}) for i in range(4))
    model = NHITS(
        h=4, input_size=8, max_steps=3, mlp_units=3 * [[8, 8]], accelerator="cpu", devices=1, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0,
        callbacks=list(callbacks), random_seed=1,
    )  # fmt: skip
    forecast = NeuralForecast([model], freq="D")
    forecast.fit(frame, val_size=4)
    return dict(forecast.models[0].state_dict())


def dart(*callbacks: Any) -> Weights:
    from darts import TimeSeries
    from darts.models import NBEATSModel

    rng = np.random.default_rng(0)
    series = TimeSeries.from_values(rng.normal(size=60).astype(np.float32))
    settings = {"accelerator": "cpu", "devices": 1, "enable_progress_bar": False, "enable_model_summary": False,
                "num_sanity_val_steps": 0, "max_steps": 3, "callbacks": list(callbacks), "logger": False}  # fmt: skip
    model = NBEATSModel(8, 4, num_stacks=1, num_blocks=1, layer_widths=8, n_epochs=1, batch_size=8, random_state=1,
                        pl_trainer_kwargs=settings)  # fmt: skip
    model.fit(series, val_series=series)
    return dict(model.model.state_dict())


@dataclass(frozen=True)
class Project:
    """A project, how it trains with callbacks, and a submodule that gives a vector a row."""

    package: str
    what: str
    train: Callable[..., Weights]
    place: str
    make: Callable[[], Made] | None = None  # None: its own trainer makes module and loaders


def project(package: str, what: str, make: Callable[[], Made], place: str) -> Project:
    return Project(package, what, lambda *callbacks, **fit: trained(make, *callbacks, **fit), place, make)


PROJECTS = {
    "TFT": project("pytorch-forecasting", "temporal fusion transformer",
                   lambda: forecasting("TemporalFusionTransformer"), "output_layer"),
    "N-BEATS": project("pytorch-forecasting", "N-BEATS", lambda: forecasting("NBeats"), "net_blocks.0"),
    "DeepAR": project("pytorch-forecasting", "DeepAR", lambda: forecasting("DeepAR"), "distribution_projector"),
    "chemprop": project("chemprop", "message passing network", molecules, "agg"),
    "PyG": project("torch-geometric", "graph convolution", graphs, "enc"),
    "scVI": project("scvi-tools", "scVI", lambda: cells(False), "module.z_encoder"),
    "scVI, adversarial": project("scvi-tools", "adversarial plan, by hand", lambda: cells(True), "module.z_encoder"),
    "GluonTS": project("gluonts", "DeepAR", gluon, "model.param_proj"),
    **{name: project("lightly", name, lambda name=name: pictures(name), "backbone")
       for name in ("SimCLR", "BYOL", "MoCo", "DINO")},
    "N-HiTS": Project("neuralforecast", "N-HiTS, pytorch_lightning", neural, "blocks.0"),
    "darts": Project("darts", "N-BEATS, pytorch_lightning", dart, "stacks.0"),
}  # fmt: skip


def callbacks(one: Project) -> dict[str, Callable[[str], Any]]:
    """Each in a setting with which a run is as without it; by the folder that it may write to."""
    from lit_ft.callbacks import (
        SAM,
        SWAG,
        Calibration,
        EdgeOfStability,
        FeatureProbe,
        Forgetting,
        GradientMask,
        KernelRegime,
        LayerSimilarity,
        RunCheckpoint,
        TrainingFlops,
    )
    from lit_ft.core.selection import Names
    from lit_ft.running.run_report import RunReport

    found: dict[str, Callable[[str], Any]] = {
        "SAM": lambda folder: SAM(0.0),
        "EdgeOfStability": lambda folder: EdgeOfStability(every_n_steps=2),
        "SWAG": lambda folder: SWAG(1, 1),
        "GradientMask": lambda folder: GradientMask(Names("*")),
        "RunCheckpoint": lambda folder: RunCheckpoint(1, folder=f"{folder}/checkpoints"),
        "RunReport": lambda folder: RunReport(f"{folder}/report"),
        "LayerSimilarity": lambda folder: LayerSimilarity([one.place], num_rows=8, probe=False),
        "FeatureProbe": lambda folder: FeatureProbe(one.place, num_rows=16, max_eval_rows=16),
        "KernelRegime": lambda folder: KernelRegime(one.place, every_n_steps=2),
        "Calibration": lambda folder: Calibration(one.place),
        "TrainingFlops": lambda folder: TrainingFlops(every_n_steps=2),
    }
    if (make := one.make) is not None:
        found["Forgetting"] = lambda folder: Forgetting({"others": Others(make)}, every_n_steps=2, limit_batches=1)
    return found


def outcome(plain: Weights, train: Callable[..., Weights], *arguments: Any) -> str:
    """Of a run: ``right``: weights are as without a callback, bit by bit; ``refused: why``; else what is wrong."""
    from lit_ft.core.errors import ConfigError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = train(*arguments)
    except ConfigError as error:
        return f"refused: {error}" if "\n" not in str(error) else f"WRONG: {error}"
    except Exception as error:
        return f"WRONG: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    same = found.keys() == plain.keys() and all(
        torch.equal(value, plain[name]) for name, value in found.items() if isinstance(value, torch.Tensor)
    )
    return "right" if same else "WRONG: the weights differ"


def resumed(one: Project, folder: str) -> str:
    """Whether a run that goes on behind its first epoch in a new trainer ends as the one that nobody stopped.

    Their loaders have no state of their own: inside an epoch they would begin it again, which Lightning says.
    """
    from lit_ft.callbacks import RunCheckpoint

    whole = one.train(RunCheckpoint(1, keep=20, folder=folder), epochs=2)
    files = sorted(Path(folder).glob("step=*.ckpt"))
    half = files[len(files) // 2 - 1]
    return outcome(
        whole, lambda: one.train(RunCheckpoint(1, folder=folder), epochs=2, ckpt_path=half, weights_only=False)
    )


def main() -> None:
    """Print the table."""
    import logging
    import sys
    import tempfile

    for name in ("lightning.pytorch", "pytorch_lightning", "darts"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    for name, project in PROJECTS.items():
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        try:
            plain = project.train()
        except Exception as error:
            print(name, "DOES NOT RUN:", type(error).__name__, str(error)[:300], flush=True)
            continue
        for key, make in callbacks(project).items():
            print(f"{name} | {key} | {outcome(plain, project.train, make(tempfile.mkdtemp()))}", flush=True)
        if project.make is not None:
            print(f"{name} | resume | {resumed(project, tempfile.mkdtemp())}", flush=True)


if __name__ == "__main__":
    main()
