"""Every adapter of PEFT on tiny networks: what the configuration says is trained, saved and exported, or refused."""

import copy
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.method import Method
from lit_ft.core.network import Network
from lit_ft.methods import ImageClassifier, SupervisedFineTuning, TextClassifier
from lit_ft.models import causal_lm, masked_lm, tokenizer
from lit_ft.models.adapter_export import name_base

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # what PEFT says of its own settings

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LLAMA = {"model_type": "llama", **SIZES, "tokenizer": "bytes"}
IDS = torch.arange(10, 26).reshape(2, 8)
ON = {"target_modules": ["q_proj", "v_proj"]}

# class, settings: decoders
TRAINED: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("LoraConfig", {**ON, "r": 2}),
    "lora random": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": False}),
    "lora gaussian": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": "gaussian"}),
    "lora pissa": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": "pissa"}),
    "lora pissa_niter": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": "pissa_niter_4"}),
    "lora olora": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": "olora"}),
    "lora orthogonal": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": "orthogonal"}),
    "lora mica": ("LoraConfig", {**ON, "r": 2, "init_lora_weights": "mica"}),
    "dora": ("LoraConfig", {**ON, "r": 2, "use_dora": True}),
    "rslora": ("LoraConfig", {**ON, "r": 2, "use_rslora": True}),
    "lora_bias": ("LoraConfig", {**ON, "r": 2, "lora_bias": True}),
    "patterns": ("LoraConfig", {**ON, "r": 2, "rank_pattern": {"q_proj": 3}, "alpha_pattern": {"v_proj": 5}}),
    "tokens too": ("LoraConfig", {**ON, "r": 2, "trainable_token_indices": [12, 15]}),
    "parameters": ("LoraConfig", {"r": 2, "target_modules": [], "target_parameters": ["mlp.gate_proj.weight"]}),
    "head too": ("LoraConfig", {**ON, "r": 2, "modules_to_save": ["lm_head"]}),
    "embeddings": ("LoraConfig", {"r": 2, "target_modules": ["embed_tokens", "q_proj"]}),
    "all-linear": ("LoraConfig", {"r": 2, "target_modules": "all-linear"}),
    "replicated": ("LoraConfig", {**ON, "r": 2, "layer_replication": [[0, 2], [1, 2]]}),
    "velora": ("LoraConfig", {**ON, "r": 2, "velora_config": {"num_groups": 4}}),
    "qalora": ("LoraConfig", {**ON, "r": 2, "use_qalora": True, "qalora_group_size": 4}),
    "adamss": ("AdamssConfig", {**ON, "r": 8, "num_subspaces": 2}),
    "adaption prompt": ("AdaptionPromptConfig", {"adapter_len": 2, "adapter_layers": 1, "target_modules": "self_attn"}),
    "beft": ("BeftConfig", ON),
    "boft": ("BOFTConfig", {**ON, "boft_block_size": 4}),
    "c3a": ("C3AConfig", {**ON, "block_size": 4}),
    "cartridge": ("CartridgeConfig", {"num_virtual_tokens": 3}),
    "deft": ("DeftConfig", {**ON, "r": 2}),
    "delora": ("DeloraConfig", {**ON, "r": 2}),
    "fourierft": ("FourierFTConfig", {**ON, "n_frequency": 8}),
    "frod": ("FrodConfig", {**ON, "progressbar": False}),
    "glora": ("GloraConfig", {**ON, "r": 2}),
    "gralora": ("GraloraConfig", {**ON, "r": 4}),
    "hira": ("HiraConfig", {**ON, "r": 2}),
    "hra": ("HRAConfig", {**ON, "r": 2}),
    "ia3": ("IA3Config", {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]}),
    "ln tuning": ("LNTuningConfig", {"target_modules": ["input_layernorm"]}),
    "loha": ("LoHaConfig", {**ON, "r": 2}),
    "lokr": ("LoKrConfig", {**ON, "r": 2}),
    "miss": ("MissConfig", {**ON, "r": 2}),
    "miss bat": ("MissConfig", {**ON, "r": 2, "init_weights": "bat"}),
    "oft": ("OFTConfig", {**ON, "oft_block_size": 4}),
    "osf": ("OSFConfig", {**ON, "effective_rank": 4}),
    "peanut": ("PeanutConfig", {**ON, "r": 2}),
    "prefix": ("PrefixTuningConfig", {"num_virtual_tokens": 2}),
    "prefix projection": (
        "PrefixTuningConfig", {"num_virtual_tokens": 2, "prefix_projection": True, "encoder_hidden_size": 8}),
    "p-tuning": ("PromptEncoderConfig", {"num_virtual_tokens": 2, "encoder_hidden_size": 8}),
    "prompt": ("PromptTuningConfig", {"num_virtual_tokens": 2}),
    "psoft": ("PsoftConfig", {**ON, "r": 4}),
    "pvera": ("PveraConfig", {**ON, "r": 4}),
    "randlora": ("RandLoraConfig", {**ON, "r": 4}),
    "road": ("RoadConfig", {**ON, "group_size": 4}),
    "shira": ("ShiraConfig", {**ON, "r": 2}),
    "supertuning": ("SupertuningConfig", ON),
    "tinylora": ("TinyLoraConfig", {**ON, "r": 2, "u": 4}),
    "tokens": ("TrainableTokensConfig", {"token_indices": [12, 15]}),
    "unilora": ("UniLoraConfig", {**ON, "r": 2}),
    "vblora": ("VBLoRAConfig", {**ON, "r": 2, "num_vectors": 8, "vector_length": 4}),
    "vera": ("VeraConfig", {**ON, "r": 4}),
    "vera without projection": ("VeraConfig", {**ON, "r": 4, "save_projection": False}),
    "waveft": ("WaveFTConfig", {**ON, "n_frequency": 8}),
}  # fmt: skip

# class, settings, a word of the reason
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("LoraConfig", {**ON, "init_lora_weights": "eva"}, "pass over data"),
    ("LoraConfig", {**ON, "init_lora_weights": "lora_ga"}, "pass over data"),
    ("LoraConfig", {**ON, "init_lora_weights": "corda"}, "pass over data"),
    ("LoraConfig", {**ON, "init_lora_weights": "loftq"}, "loftq_config"),
    ("LoraConfig", {**ON, "init_lora_weights": "gausian"}, "did you mean 'gaussian'"),
    ("MissConfig", {**ON, "init_weights": "bta"}, "did you mean 'bat'"),
    ("LoraConfig", {**ON, "kasa_config": {}}, "loss"),
    ("LoraConfig", {**ON, "monteclora_config": {}}, "loss"),
    ("LoraConfig", {**ON, "arrow_config": {}}, "trained before"),
    ("LoraConfig", {**ON, "alora_invocation_tokens": [4, 5]}, "outside"),
    ("PveraConfig", {**ON, "generator_seed": 3}, "random numbers"),
    ("AdaLoraConfig", {**ON, "total_step": 9}, "call after each step"),
    ("AdamssConfig", {**ON, "use_asa": True}, "call after each step"),
    ("CPTConfig", {"cpt_token_ids": [1, 2], "cpt_mask": [1, 1], "cpt_tokens_type_mask": [1, 2]}, "loss"),
    ("LilyConfig", ON, "see later ones"),
    ("PolyConfig", ON, "number of a task"),
    ("MultitaskPromptTuningConfig", {"num_virtual_tokens": 2, "num_tasks": 2}, "number of a task"),
    ("ShadowConfig", ON, "second network"),
    ("XLoraConfig", {"hidden_size": 16, "adapters": {}}, "trained before"),
]


def mostly_slow(names: Iterable[str], quick: str) -> list[Any]:
    """Those of ``quick`` in every run of the tests, the others in the slow ones."""
    chosen = quick.split(", ")
    return [name if name in chosen else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bases")
    torch.manual_seed(0)
    causal_lm(Network(config=LLAMA)).save_pretrained(place / "llama")
    tokenizer(Network(config=LLAMA)).save_pretrained(place / "llama")
    bert = transformers.BertConfig(vocab_size=263, **SIZES)
    transformers.BertModel(bert, add_pooling_layer=False).save_pretrained(place / "bert")
    tokenizer(Network(config=LLAMA)).save_pretrained(place / "bert")
    vit = transformers.ViTConfig(image_size=8, patch_size=4, **SIZES)
    transformers.ViTModel(vit, add_pooling_layer=False).save_pretrained(place / "vit")
    sizes: Any = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
    transformers.ResNetModel(transformers.ResNetConfig(**sizes)).save_pretrained(place / "resnet")
    return place


def built(
    kind: type[Method], base: Path | dict[str, Any], adapter: tuple[str, dict[str, Any]], seed: int, **facts: Any
) -> Any:
    torch.manual_seed(seed)
    described = {"class_path": f"peft.{adapter[0]}", "init_args": copy.deepcopy(adapter[1])}
    place = {"path": str(base)} if isinstance(base, Path) else {"config": base}
    made = kind({**place, "peft": described}, **facts)  # type: ignore[arg-type]
    made.configure_model()
    return made


def a_step(made: Any, batch: dict[str, Tensor]) -> None:
    """Train for one step; every trainable tensor gets a gradient, and moves."""
    before = {name: p.detach().clone() for name, p in made.trainable_parameters().items()}
    made.compute(batch).loss.backward()
    made.on_after_backward()
    assert not [name for name, p in made.trainable_parameters().items() if p.grad is None]
    with torch.no_grad():
        for number, p in enumerate(made.trainable_parameters().values()):  # as after many steps: nothing is 0
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    assert not [n for n, p in made.trainable_parameters().items() if p.numel() > 1 and torch.equal(p, before[n])]
    made.zero_grad()


def brought_back(made: Any, other: Any) -> dict[str, Any]:
    """``other`` with the weights of a checkpoint of ``made``, as a file holds them."""
    checkpoint: dict[str, Any] = {"state_dict": made.state_dict(), "hyper_parameters": {}}
    made.on_save_checkpoint(checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)
    other.on_load_checkpoint(loaded)
    other.load_state_dict(loaded["state_dict"])
    return loaded


@torch.no_grad()
def said(network: nn.Module, **inputs: Tensor) -> Tensor:
    return network.eval()(**inputs).logits


def text_batch() -> dict[str, Tensor]:
    weights = torch.ones(2, 8)
    weights[:, 0] = 0
    return {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "weights": weights}


@pytest.mark.parametrize("name", mostly_slow(TRAINED, ", ".join(name for name in TRAINED if name != "adamss")))
def test_a_decoder_with_it_is_trained_and_comes_back(bases: Path, name: str, tmp_path: Path) -> None:
    made = built(SupervisedFineTuning, bases / "llama", TRAINED[name], seed=1)
    a_step(made, text_batch())
    wanted = said(made.network, input_ids=IDS, use_cache=False)
    alone = said(made.network, input_ids=IDS[:1], use_cache=False)
    torch.testing.assert_close(alone, wanted[:1])
    shorter = said(made.network, input_ids=IDS[:, :6], use_cache=False)
    torch.testing.assert_close(shorter[:, -6:], wanted[:, -8:-2])
    again = built(SupervisedFineTuning, bases / "llama", TRAINED[name], seed=2)
    checkpoint = brought_back(made, again)
    assert torch.equal(said(again.network, input_ids=IDS, use_cache=False), wanted)
    size = sum(tensor.numel() for tensor in checkpoint["state_dict"].values())
    assert size < sum(p.numel() for p in made.network.parameters()) or name in ("head too", "osf")
    made.network.save_pretrained(tmp_path)
    name_base(made.network, made.spec, tmp_path, tmp_path)
    other = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(said(other, input_ids=IDS, use_cache=False), wanted)


@pytest.mark.parametrize(
    "name", mostly_slow(TRAINED, "lora pissa_niter, dora, embeddings, replicated, adaption prompt, osf, prompt, tokens")
)
def test_its_random_base_goes_along(name: str, tmp_path: Path) -> None:
    made = built(SupervisedFineTuning, LLAMA, TRAINED[name], seed=1)
    a_step(made, text_batch())
    wanted = said(made.network, input_ids=IDS, use_cache=False)
    made.network.save_pretrained(tmp_path)
    name_base(made.network, made.spec, tmp_path, tmp_path)
    other = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(said(other, input_ids=IDS, use_cache=False), wanted)


@pytest.mark.parametrize(("kind", "settings", "reason"), REFUSED)
def test_what_would_not_do_what_it_promises_is_refused(
    bases: Path, kind: str, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ConfigError, match=reason):
        built(SupervisedFineTuning, bases / "llama", (kind, settings), seed=1)


def test_no_adapter_of_the_installed_library_is_left_out() -> None:
    known = {kind for kind, _ in TRAINED.values()} | {kind for kind, _, _ in REFUSED}
    bases = {"PeftConfig", "PromptLearningConfig"}
    installed = {
        name for name, value in vars(peft).items() if isinstance(value, type) and issubclass(value, peft.PeftConfig)
    }
    assert installed - bases == known


IN_BERT = {
    "q_proj": "query", "v_proj": "value", "k_proj": "key", "down_proj": "output.dense", "lm_head": "classifier",
    "input_layernorm": "attention.output.LayerNorm", "embed_tokens": "word_embeddings",
    "mlp.gate_proj.weight": "intermediate.dense.weight",
}  # fmt: skip
DECODERS_ONLY = {
    "tokens",
    "adaption prompt",
    "cartridge",
    "head too",
    "replicated",
    "vera without projection",
    "prefix projection",
}


def named_as(settings: Any, names: dict[str, str]) -> Any:
    if isinstance(settings, dict):
        return {names.get(key, key): named_as(value, names) for key, value in settings.items()}
    if isinstance(settings, list):
        return [named_as(value, names) for value in settings]
    return names.get(settings, settings) if isinstance(settings, str) else settings


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        [name for name in TRAINED if name not in DECODERS_ONLY],
        "lora pissa_niter, dora, tokens too, ia3, ln tuning, prefix, prompt, vera",
    ),
)
def test_an_encoder_without_head_and_pooler_learns_both_beside_it(bases: Path, name: str, tmp_path: Path) -> None:
    kind, settings = TRAINED[name]
    adapter = kind, named_as(settings, IN_BERT)
    made = built(TextClassifier, bases / "bert", adapter, seed=1, num_classes=3)
    batch = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": torch.tensor([0, 2])}
    a_step(made, batch)
    wanted = said(made.network, input_ids=IDS)
    torch.testing.assert_close(said(made.network, input_ids=IDS[:1]), wanted[:1])
    again = built(TextClassifier, bases / "bert", adapter, seed=2, num_classes=3)
    brought_back(made, again)
    assert torch.equal(said(again.network, input_ids=IDS), wanted)
    made.network.save_pretrained(tmp_path)
    name_base(made.network, made.spec, tmp_path, tmp_path)
    torch.manual_seed(3)
    base = transformers.BertForSequenceClassification.from_pretrained(bases / "bert", num_labels=3)
    if (tmp_path / "base").exists():
        base = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "base")
    other = peft.PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(said(other, input_ids=IDS), wanted)


def test_what_an_adapter_cannot_train_beside_it_is_refused(bases: Path) -> None:
    with pytest.raises(ConfigError, match=r"classifier\.weight|pooler\.dense\.weight"):
        built(TextClassifier, bases / "bert", TRAINED["tokens"], seed=1, num_classes=3)
    spec = {"class_path": "LoraConfig", "init_args": {"target_modules": ["query"]}}
    with pytest.raises(ConfigError, match=r"cls\.predictions\.bias"):
        masked_lm(Network(path=str(bases / "bert"), peft=spec))


PICTURES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    "name", mostly_slow(["lora", "dora", "ia3", "loha", "lokr", "boft", "oft", "ln tuning", "hra"], "lora, dora")
)
@pytest.mark.parametrize("folder", ["vit", "resnet"])
def test_a_picture_classifier_learns_its_head_and_keeps_the_statistics_of_its_base(
    bases: Path, name: str, folder: str, tmp_path: Path
) -> None:
    kind, settings = TRAINED[name]
    if folder == "resnet":
        names = {"q_proj": "layer.0.convolution", "v_proj": "layer.1.convolution", "k_proj": "layer.0.convolution",
                 "down_proj": "layer.1.convolution", "input_layernorm": "layer.0.normalization"}  # fmt: skip
        if name == "ln tuning" or name == "hra":
            return
    else:
        names = {"down_proj": "fc2", "input_layernorm": "layernorm_before"}
    adapter = kind, named_as(settings, names)
    pixels = PICTURES if folder == "resnet" else PICTURES[..., :8, :8]
    shape = tuple(pixels.shape[1:])
    made = built(ImageClassifier, bases / folder, adapter, seed=1, num_classes=5, input_shape=shape)
    statistics = {n: b.clone() for n, b in made.network.named_buffers() if "running" in n}
    made.train()
    a_step(made, {"images": pixels, "labels": torch.tensor([0, 1, 2, 4])})
    assert all(torch.equal(b, statistics[n]) for n, b in made.network.named_buffers() if n in statistics)
    wanted = said(made.network, pixel_values=pixels)
    torch.testing.assert_close(said(made.network, pixel_values=pixels[:1]), wanted[:1])
    again = built(ImageClassifier, bases / folder, adapter, seed=2, num_classes=5, input_shape=shape)
    brought_back(made, again)
    assert torch.equal(said(again.network, pixel_values=pixels), wanted)
    made.network.save_pretrained(tmp_path)
    name_base(made.network, made.spec, tmp_path, tmp_path)
    torch.manual_seed(3)
    base = transformers.AutoModelForImageClassification.from_pretrained(bases / folder, num_labels=5)
    other = peft.PeftModel.from_pretrained(base, tmp_path)
    torch.testing.assert_close(said(other, pixel_values=pixels), wanted)
