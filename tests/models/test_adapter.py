"""What the file says of an adapter either happens or is refused by name."""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
import transformers
from torch import nn

from lit_ft.command.cli import command
from lit_ft.command.run import execute, load_run
from lit_ft.command.run_folders import find_checkpoint
from lit_ft.core.adapters import begun, perturbed, refuse_untrained
from lit_ft.core.batch_norm import update_batch_norm
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.embedding.sentence_encoder import sentence_encoder
from lit_ft.methods import DPO, AdapterOff, CachedLogProbs, ImageClassifier, SentenceEmbedding, SupervisedFineTuning
from lit_ft.models import adapter_config, causal_lm, image_classifier, tokenizer
from lit_ft.models.adapter_export import name_base
from lit_ft.tokens.network import check_causal
from lit_ft.tokens.packing import check_packing

peft = pytest.importorskip("peft")

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
LLAMA = {"model_type": "llama", **SIZES, "tokenizer": "bytes"}
IDS = torch.arange(10, 26).reshape(2, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    place = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    causal_lm(Network(config=LLAMA)).save_pretrained(place)
    tokenizer(Network(config=LLAMA)).save_pretrained(place)
    return str(place)


def lora(**settings: Any) -> dict[str, Any]:
    return {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": ["q_proj"], **settings}}


@pytest.mark.parametrize(
    ("adapter", "complaint"),
    [
        ({"class_path": "LoraConfig", "init_arg": {"r": 2}}, r"network\.peft\.init_arg:.*did you mean 'init_args'"),
        ({"class_path": "LoraConfig", "r": 2}, r"network\.peft\.r:"),
        ({"class_path": "LoraConfig", "init_args": ["r"]}, r"init_args: given \['r'\]; allowed: a mapping"),
        (lora(lora_alhpa=3), r"init_args\.lora_alhpa: given 3; .*did you mean 'lora_alpha'"),
        (lora(target_modules=["q_proj", "v_porj"]), r"target_modules: given 'v_porj'; .*did you mean 'v_proj'"),
        (lora(target_modules=r".*\.q_porj"), r"target_modules: given '\.\*"),
        (lora(modules_to_save=["lm_haed"]), r"modules_to_save: given 'lm_haed'; .*did you mean 'lm_head'"),
        (lora(exclude_modules=["0.self_attn.q_porj"]), r"exclude_modules: given '0\.self_attn\.q_porj'"),
        (lora(layers_to_transform=[0, 2]), r"layers_to_transform: given 2; .* from 0: 0, 1"),
        (lora(layers_to_transform=5), r"layers_to_transform: given 5"),
        (lora(layers_to_transform=[0], layers_pattern="layer"), r"layers_pattern: given 'layer'; .*'layers'"),
        (lora(target_modules=["q_proj", "lm_head"], modules_to_save=["lm_head"]), r"'lm_head'; .* trained whole"),
        (lora(target_modules=["q_proj", "v_proj"], exclude_modules=["v_proj"]), r"'v_proj'; .* exclude it"),
        (lora(task_type="SEQ_CLS"), r"task_type: given 'SEQ_CLS'; allowed: CAUSAL_LM"),
        (lora(inference_mode=True), "nothing would be trained"),
        (lora(base_model_name_or_path="gpt2"), "network.path names the base"),
        (lora(eva_config={}), r"settings that are all used; PEFT says: .*eva_config"),
        (lora(rank_pattern={"v_proj": 4}), r"rank_pattern: given 'v_proj'"),
        (lora(alpha_pattern={"q_porj": 4}), r"alpha_pattern: given 'q_porj'; .*did you mean 'q_proj'"),
        (lora(target_parameters=["mlp.gate_porj.weight"]), r"target_parameters: given 'mlp\.gate_porj\.weight'"),
        (lora(trainable_token_indices=[3, 263]), r"trainable_token_indices: given 263; .* 0 to 262"),
        (lora(trainable_token_indices={"embed_tokns": [3]}), r"trainable_token_indices: given 'embed_tokns'"),
        (
            {"class_path": "IA3Config", "init_args": {"target_modules": ["k_proj"], "feedforward_modules": ["down"]}},
            r"feedforward_modules",
        ),
        (
            {"class_path": "LoHaConfig", "init_args": {"target_modules": ["k_proj"], "rank_pattern": {"q": 1}}},
            r"rank_pattern: given 'q'",
        ),
        ({"class_path": "TrainableTokensConfig", "init_args": {"token_indices": [-1]}}, r"token_indices: given -1"),
        ({"class_path": "LNTuningConfig", "init_args": {"target_modules": ["input_layrnorm"]}}, "input_layernorm"),
    ],
)
def test_a_setting_that_means_nothing_is_refused(base: str, adapter: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        causal_lm(Network(path=base, peft=adapter))


def test_what_each_name_means_stands_in_the_report(run: Path) -> None:
    found = json.loads((run / "report.json").read_text())["adapter"]
    assert found == {"target_modules": {"q_proj": 2, "v_proj": 2}, "alpha_pattern": {"v_proj": 2}}
    assert "names mean" in (run / "report.html").read_text()


def config(folder: Path, base: str, name: str, **adapter: Any) -> str:
    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"q{i} ", "completion": f"answer {i}"}) + "\n" for i in range(8)))
    adam = {"class_path": "AdamW", "init_args": {"lr": 0.05}}
    network = {"path": base, "peft": lora(**adapter)}
    content = {
        "model": {"class_path": "SupervisedFineTuning", "init_args": {"network": network, "optimizer": adam}},
        "data": {"class_path": "Instructions", "init_args": {"path": str(rows), "val_fraction": 0.25, "batch_size": 2}},
        "trainer": {"max_steps": 2, "accelerator": "cpu"},
    }
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


STARTED = {"target_modules": ["q_proj", "v_proj"], "init_lora_weights": "pissa_niter_4", "alpha_pattern": {"v_proj": 3}}


@pytest.fixture(scope="module")
def run(base: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps of an adapter whose start depends on chance."""
    folder = tmp_path_factory.mktemp("run")
    execute("fit", ["-c", config(folder, base, "c.yaml", **STARTED), f"--run_dir={folder / 'run'}"])
    return folder / "run"


QUIET = pytest.mark.filterwarnings("ignore:(?s)(Be aware that|the configuration differs|Using Rank-Stab).*:UserWarning")


@QUIET
def test_a_start_by_chance_is_validated_under_another_seed_and_exported(run: Path, base: str, tmp_path: Path) -> None:
    values = [
        execute("validate", ["--run", str(run), f"--seed_everything={seed}"]).metrics["val/loss"] for seed in (0, 7)
    ]
    assert values[0] == values[1]
    trained = load_run(run).model.network.eval()
    with torch.no_grad():
        wanted = trained(input_ids=IDS).logits
    assert command(["export", str(run), "--to", str(tmp_path / "out"), "--debug"]) == 0
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(tmp_path / "out" / "base")
    with torch.no_grad():
        found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=IDS).logits
        other = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "base")(input_ids=IDS).logits
    torch.testing.assert_close(found, wanted)
    assert not torch.allclose(other, wanted)


@QUIET
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"lora_alpha": 16}, r"lora_alpha: given 16; allowed: 8, as in the checkpoint"),
        ({"use_rslora": True}, r"use_rslora: given True"),
        ({"alpha_pattern": {"v_proj": 4}}, r"alpha_pattern: given"),
        ({"target_modules": ["q_proj"], "alpha_pattern": {}}, r"target_modules|alpha_pattern"),
    ],
)
def test_what_stands_in_no_tensor_is_compared(
    run: Path, base: str, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    written = config(tmp_path, base, "c.yaml", **{**STARTED, **change})
    checkpoint = find_checkpoint("last", run)
    with pytest.raises(ConfigError, match=complaint):
        execute("validate", ["-c", written, f"--ckpt_path={checkpoint}"])
    with pytest.raises(ConfigError, match=complaint):
        execute("fit", ["-c", written, f"--run_dir={tmp_path / 'on'}", f"--from={run}"])


@QUIET
def test_an_adapter_starts_another_run_on_its_own_base_alone(run: Path, base: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    other = tmp_path / "other"
    causal_lm(Network(config=LLAMA)).save_pretrained(other)
    tokenizer(Network(config=LLAMA)).save_pretrained(other)
    with pytest.raises(ConfigError, match=r"a base with other weights.*embed_tokens"):
        execute(
            "fit",
            ["-c", config(tmp_path, str(other), "c.yaml", **STARTED), f"--run_dir={tmp_path / 'a'}", f"--from={run}"],
        )
    half = {**STARTED, "target_modules": ["v_proj"]}
    with pytest.raises(ConfigError, match=r"one on model\.layers\.0\.self_attn\.q_proj too"):
        execute("fit", ["-c", config(tmp_path, base, "d.yaml", **half), f"--run_dir={tmp_path / 'b'}", f"--from={run}"])
    wider = {**STARTED, "target_modules": ["q_proj", "v_proj", "k_proj"]}
    done = execute(
        "fit", ["-c", config(tmp_path, base, "e.yaml", **wider), f"--run_dir={tmp_path / 'c'}", f"--from={run}"]
    )
    assert json.loads((done.folder / "report.json").read_text())["callbacks"]["WarmStart"]["unused"] == 0


@pytest.mark.filterwarnings("ignore::UserWarning")  # of BOFT, about its kernels
def test_decay_leaves_scales_at_their_neutral_value(base: str) -> None:
    """With a gradient of 0, a step is the decay alone."""
    for adapter in (
        {
            "class_path": "IA3Config",
            "init_args": {"target_modules": ["k_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
        },
        {"class_path": "BOFTConfig", "init_args": {"target_modules": ["k_proj"], "boft_block_size": 4}},
        lora(use_dora=True),
        {"class_path": "FrodConfig", "init_args": {"target_modules": ["k_proj"], "progressbar": False}},
        {"class_path": "LNTuningConfig", "init_args": {"target_modules": ["input_layernorm"]}},
    ):
        decay = lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.5)  # noqa: E731
        made = SupervisedFineTuning({"path": base, "peft": adapter}, optimizer=decay)
        made.configure_model()
        with torch.no_grad():
            before = made.network.eval()(input_ids=IDS).logits
        optimizer = made.configure_optimizers()
        for parameter in made.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        optimizer.step()
        with torch.no_grad():
            torch.testing.assert_close(made.network(input_ids=IDS).logits, before)


def test_a_checkpoint_and_a_network_agree_on_whether_there_is_an_adapter(base: str) -> None:
    made = [SupervisedFineTuning({"path": base, "peft": adapter}) for adapter in (None, lora())]
    checkpoints: list[dict[str, Any]] = []
    for one in made:
        one.configure_model()
        checkpoints.append({"state_dict": one.state_dict(), "hyper_parameters": {}})
        one.on_save_checkpoint(checkpoints[-1])
    with pytest.raises(ConfigError, match=r"network\.peft: given None; allowed: the adapter .* LORA"):
        made[0].on_load_checkpoint(checkpoints[1])
    with pytest.raises(ConfigError, match=r"network\.peft: given 'an adapter'; allowed: null"):
        made[1].on_load_checkpoint(checkpoints[0])


def test_the_magnitudes_of_convolutions_do_not_decay() -> None:
    network = peft.get_peft_model(
        nn.Sequential(nn.Conv2d(2, 3, 3)), peft.LoraConfig(target_modules=["0"], use_dora=True)
    )
    assert [p.shape for p in begun(network)] == [(1, 3, 1, 1)]


def test_an_adapter_in_bfloat16_is_warned_of(base: str) -> None:
    quiet: Any = {"logger": False, "enable_checkpointing": False, "accelerator": "cpu"}
    made = SupervisedFineTuning({"path": base, "peft": lora()})
    made.trainer = pl.Trainer(precision="bf16-true", **quiet)
    with pytest.warns(UserWarning, match=r"trained in bfloat16.*bf16-mixed"):
        made.configure_model()
    mixed = SupervisedFineTuning({"path": base, "peft": lora(), "dtype": "bfloat16"})
    mixed.configure_model()  # PEFT keeps the adapter in float32, and nothing is said


def test_an_adapter_is_perturbed_and_comes_back_bit_by_bit(base: str) -> None:
    network: Any = causal_lm(Network(path=base, peft=lora())).eval()
    before = {name: p.clone() for name, p in network.named_parameters()}
    with perturbed(network):
        moved = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in network.named_parameters() if p.requires_grad}
    assert all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    coarse: Any = causal_lm(Network(path=base, peft=lora(), dtype="bfloat16"))
    with perturbed(coarse):
        assert not any(p.any() for name, p in coarse.named_parameters() if "lora_B" in name)


def test_an_adapter_that_mixes_tokens_is_found_before_it_has_learned_to(
    base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lily, if it were not refused by its name: at its start, it is the base."""
    monkeypatch.delitem(adapter_config._REFUSED, "LilyConfig")
    mixing = {"class_path": "LilyConfig", "init_args": {"target_modules": ["q_proj", "v_proj"], "r": 2}}
    with pytest.raises(ConfigError, match="a causal language model"):
        check_causal(causal_lm(Network(path=base, peft=mixing)), IDS)


def test_what_tokens_in_front_cannot_do_is_one_line(base: str) -> None:
    prompt = {"class_path": "PromptTuningConfig", "init_args": {"num_virtual_tokens": 2}}
    with pytest.raises(ConfigError, match="packing: given True; allowed: false with an adapter that puts tokens"):
        check_packing(causal_lm(Network(path=base, peft=prompt)), vocabulary=100)
    with pytest.raises(ConfigError, match="its tokens would be pooled"):
        sentence_encoder(Network(path=base, peft=prompt))


def test_the_reference_without_adapter_is_the_base_or_refused(base: str) -> None:
    for start in ("pissa", "pissa_niter_2", "olora"):
        made = DPO({"path": base, "peft": lora(init_lora_weights=start)}, reference=AdapterOff())
        with pytest.raises(ConfigError, match=r"FrozenCopy: the start of this adapter changed the base"):
            made.configure_model()
        made = DPO({"path": base, "peft": lora(init_lora_weights=start)}, reference=CachedLogProbs())
        with pytest.raises(ConfigError, match=r"FrozenCopy: the start of this adapter changed the base"):
            made.configure_model()
    with pytest.raises(ConfigError, match="no trainable parameter beside the adapter"):
        DPO(
            {"config": {**LLAMA, "attention_bias": True}, "peft": lora(bias="all")}, reference=AdapterOff()
        ).configure_model()


def test_weights_that_a_method_runs_around_are_refused(base: str) -> None:
    prompt = {"class_path": "PromptTuningConfig", "init_args": {"num_virtual_tokens": 2}}
    network: Any = causal_lm(Network(path=base, peft=prompt))
    network.get_base_model()(input_ids=IDS, labels=IDS).loss.sum().requires_grad_().backward()
    with pytest.raises(ConfigError, match=r"prompt_encoder.* get a gradient"):
        refuse_untrained(network)
    network(input_ids=IDS).logits.sum().backward()
    refuse_untrained(network)


def test_statistics_of_a_frozen_base_stay_in_a_fit_and_behind_it() -> None:
    cnn = {"model_type": "cnn", "width": 4, "depth": 2, "batch_norm": True}
    adapter = {
        "class_path": "LoraConfig",
        "init_args": {"target_modules": ["convolution"], "modules_to_save": ["head"]},
    }
    made = ImageClassifier({"config": cnn, "peft": adapter}, num_classes=3, input_shape=(1, 8, 8))
    made.configure_model()
    norms = [module for module in made.modules() if isinstance(module, nn.BatchNorm2d)]
    made.train()
    images = torch.randn(6, 1, 8, 8) + 3
    made.compute({"images": images, "labels": torch.tensor([0, 1, 2, 0, 1, 2])})
    update_batch_norm(made, [images])
    assert all(not n.running_mean.any() and not n.training for n in norms)
    plain = ImageClassifier({"config": cnn}, num_classes=3, input_shape=(1, 8, 8))
    plain.configure_model()
    update_batch_norm(plain, [images])
    assert all(n.running_mean.any() for n in plain.modules() if isinstance(n, nn.BatchNorm2d))


def test_an_unused_pooler_is_not_trained_in_vain(tmp_path: Path) -> None:
    bert = transformers.BertConfig(vocab_size=263, **SIZES)
    transformers.BertModel(bert, add_pooling_layer=False).save_pretrained(tmp_path)
    tokenizer(Network(config=LLAMA)).save_pretrained(tmp_path)
    made = SentenceEmbedding({"path": str(tmp_path), "peft": lora(target_modules="all-linear")})
    made.configure_model()
    assert all("lora_" in name and "pooler" not in name for name in made.trainable_parameters())


@QUIET
def test_a_base_that_a_warm_start_changed_goes_along(run: Path, base: str, tmp_path: Path) -> None:
    """A residual of another run in the base of plain LoRA: the folder of the base does not give it back."""
    plain = {**STARTED, "init_lora_weights": True}
    written = config(tmp_path, base, "c.yaml", **plain)
    started = execute("fit", ["-c", written, f"--run_dir={tmp_path / 'on'}", f"--from={run}"]).folder
    trained = load_run(started).model.network.eval()
    assert command(["export", str(started), "--to", str(tmp_path / "out"), "--debug"]) == 0
    with torch.no_grad():
        found = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "out")(input_ids=IDS).logits
        torch.testing.assert_close(found, trained(input_ids=IDS).logits)


def test_statistics_that_moved_before_go_along(tmp_path: Path) -> None:
    """Checkpoints of earlier versions have statistics that are not those of the base."""
    sizes: Any = {
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "layer_type": "basic",
        "num_labels": 3,
    }
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).save_pretrained(tmp_path / "resnet")
    adapter = {"class_path": "LoraConfig", "init_args": {"target_modules": ["layer.0.convolution"]}}
    made = ImageClassifier({"path": str(tmp_path / "resnet"), "peft": adapter}, num_classes=3, input_shape=(3, 16, 16))
    made.configure_model()
    state = {name: t + 1 if name.endswith("running_mean") else t for name, t in made.state_dict().items()}
    made.load_state_dict(state)
    images = torch.randn(2, 3, 16, 16)
    wanted = made.eval().network(pixel_values=images).logits
    made.network.save_pretrained(tmp_path / "out")
    name_base(made.network, made.spec, tmp_path / "out", tmp_path / "out")
    again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "out" / "base")
    found = peft.PeftModel.from_pretrained(again, tmp_path / "out").eval()(pixel_values=images).logits
    torch.testing.assert_close(found, wanted)


def test_a_small_network_is_exported_with_its_base(tmp_path: Path) -> None:
    small = {"model_type": "mlp", "width": 4, "depth": 1}
    adapter = {"class_path": "LoraConfig", "init_args": {"target_modules": ["linear"], "init_lora_weights": False}}
    spec = Network(config=small, peft=adapter)
    network: Any = image_classifier(spec, 3, (5,)).eval()
    inputs = torch.randn(2, 5)
    wanted = network(inputs)
    network.save_pretrained(tmp_path)
    name_base(network, spec, tmp_path, tmp_path)
    from safetensors.torch import load_file

    base = image_classifier(Network(config=small), 3, (5,))
    base.load_state_dict(load_file(tmp_path / "base" / "model.safetensors"))
    torch.testing.assert_close(peft.PeftModel.from_pretrained(base, tmp_path).eval()(inputs), wanted)
