"""What is exported is loaded by the libraries that it is for, and by lit_ft: the same numbers, head and names."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lit_ft.command.cli import command
from lit_ft.command.run import load_run
from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.methods import ImageClassifier, RewardModel, SentenceEmbedding, TextClassifier
from lit_ft.models import bare_encoder, sequence_classifier, tokenizer

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
LORA = {"class_path": "LoraConfig", "init_args": {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}}
IDS = torch.arange(8, 24).view(2, 8)
MASK = torch.ones_like(IDS)


@pytest.fixture(autouse=True)
def _apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def base(kind: str, whole: bool = False) -> dict[str, Any]:
    """A folder with the weights of a body alone, as they are published, or a description of random ones."""
    spec = Network(config={"model_type": kind, "tokenizer": "bytes", **SIZES})
    if whole:
        return spec.plain()
    bare_encoder(spec).save_pretrained("body")
    tokenizer(spec).save_pretrained("body")
    return {"path": "body"}


def exported(model: str, network: dict[str, Any], data: dict[str, Any]) -> Any:
    adam = {"class_path": "AdamW", "init_args": {"lr": 0.05}}
    config = {"model": {"class_path": model, "init_args": {"network": network, "optimizer": adam}}, "data": data,
              "trainer": {"max_steps": 2}}  # fmt: skip
    Path("config.yaml").write_text(json.dumps(config))
    assert command(["fit", "-c", "config.yaml", "--run_dir=run", "--debug"]) == 0
    assert command(["export", "run", "--to", "out", "--debug"]) == 0
    return load_run("run").model.eval()


def texts() -> dict[str, Any]:
    rows = [{"text": f"text {i}", "kind": ("ham", "spam", "eggs")[i % 3]} for i in range(20)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"class_path": "LabelledText", "init_args": {"path": "rows.jsonl", "label": "kind"}}


def same(found: Tensor, expected: Tensor) -> None:
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("peft", [None, LORA], ids=["whole", "adapter"])
def test_classifiers(kind: str, peft: Any) -> None:
    from peft import AutoPeftModelForSequenceClassification, PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    trained = exported("TextClassifier", {**base(kind), "peft": peft}, texts())
    expected = trained(IDS, MASK).detach()
    names = {0: "eggs", 1: "ham", 2: "spam"}
    network = AutoModelForSequenceClassification.from_pretrained("out").eval()
    assert (network.config.id2label, network.config.label2id["spam"]) == (names, 2)
    same(network(input_ids=IDS, attention_mask=MASK).logits, expected)
    assert AutoTokenizer.from_pretrained("out")("abc")["input_ids"] == trained.tokenizer("abc")["input_ids"]
    if peft:
        network = AutoPeftModelForSequenceClassification.from_pretrained("out").eval()
        assert network.config.id2label == names
        same(network(input_ids=IDS, attention_mask=MASK).logits, expected)
        plain = AutoModelForSequenceClassification.from_pretrained("out/base")
        same(PeftModel.from_pretrained(plain, "out").eval()(input_ids=IDS, attention_mask=MASK).logits, expected)
        assert command(["export", "run", "--to", "dense", "--merge", "--ckpt_path=last", "--debug"]) == 0
        dense = AutoModelForSequenceClassification.from_pretrained("dense").eval()
        same(dense(input_ids=IDS, attention_mask=MASK).logits, expected)
        assert not Path("dense/adapter_config.json").exists()
    card = Path("out/README.md").read_text()
    assert all(text in card for text in ("Base: body.", "path: rows.jsonl", "lr: 0.05", "| val/accuracy | "))
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in Path("out").rglob("*") if path.is_file()} == {0o666 & ~mask}
    assert command(["export", "run", "--to", "other", "--ckpt_path=best"]) == 2
    if not peft:
        assert command(["export", "run", "--to", "other", "--merge"]) == 2
    again = TextClassifier({"path": "out"}, num_classes=3)
    again.configure_model()
    assert again.class_names == list(names.values())
    same(again.eval()(IDS, MASK), expected)
    assert again.tokenizer("abc")["input_ids"] == trained.tokenizer("abc")["input_ids"]
    trainable = [name for name, p in again.network.named_parameters() if p.requires_grad]
    assert all("lora_" in n or "modules_to_save" in n for n in trainable) if peft else len(trainable) > 9
    if peft:
        with pytest.raises(ConfigError, match=r"network.peft: .* is an adapter already"):
            sequence_classifier(Network(path="out", peft=peft), 3)


@pytest.mark.parametrize("label", ["tags", "stars"])
def test_a_pipeline_knows_several_classes_and_numbers(label: str) -> None:
    from transformers import pipeline

    rows = [{"text": f"text {i}", "tags": [["a"], ["a", "b"], []][i % 3], "stars": i / 4} for i in range(20)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    number = {"problem_type": "regression"} if label == "stars" else {}
    data = {"class_path": "LabelledText", "init_args": {"path": "rows.jsonl", "label": label, **number}}
    trained = exported("TextClassifier", base("bert", whole=True), data)
    words = trained.tokenizer("text 3", return_tensors="pt")
    outputs = trained(words["input_ids"], words["attention_mask"]).detach()[0]
    found = {one["label"]: one["score"] for one in pipeline("text-classification", "out", top_k=None)(["text 3"])[0]}
    expected = {"LABEL_0": outputs[0]} if number else dict(zip("ab", outputs.sigmoid(), strict=True))
    assert found == pytest.approx({name: float(score) for name, score in expected.items()}, abs=1e-5)


def test_reward_models_with_an_adapter() -> None:
    from peft import AutoPeftModelForSequenceClassification
    from transformers import AutoModelForSequenceClassification

    rows = [{"prompt": f"{i}?", "chosen": f"yes {i}", "rejected": f"no {i}"} for i in range(20)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"class_path": "Preferences", "init_args": {"path": "rows.jsonl"}}
    trained = exported("RewardModel", {**base("llama"), "peft": LORA}, data)
    expected = trained.network(input_ids=IDS, attention_mask=MASK).logits.detach()
    assert expected.shape == (2, 1)
    for auto in (AutoModelForSequenceClassification, AutoPeftModelForSequenceClassification):
        network = auto.from_pretrained("out").eval()
        assert network.config.num_labels == 1
        same(network(input_ids=IDS, attention_mask=MASK).logits, expected)
    again = RewardModel({"path": "out"})
    again.configure_model()
    same(again.network.eval()(input_ids=IDS, attention_mask=MASK).logits, expected)


def test_an_image_classifier_with_an_adapter() -> None:
    from transformers import AutoModelForImageClassification

    vit = {"model_type": "vit", "image_size": 8, "patch_size": 4, "num_channels": 1, **SIZES}
    data = {"class_path": "Digits", "init_args": {"batch_size": 32}}
    trained = exported("ImageClassifier", {"config": vit, "peft": LORA}, data)
    images = torch.randn(2, 1, 8, 8)
    expected = trained(images).detach()
    network = AutoModelForImageClassification.from_pretrained("out").eval()
    assert network.config.id2label == {number: str(number) for number in range(10)}
    same(network(images).logits, expected)
    again = ImageClassifier({"path": "out"}, num_classes=10, input_shape=[1, 8, 8])
    again.configure_model()
    same(again.eval()(images), expected)


@pytest.mark.parametrize("whole", [True, False], ids=["random", "folder"])
def test_an_encoder_with_an_adapter(whole: bool) -> None:
    """In the layout of sentence-transformers: modules that are read one after another."""
    from transformers import AutoModel

    rows = [{"anchor": f"a {i}", "positive": f"b {i}"} for i in range(8)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"class_path": "TextPairs", "init_args": {"path": "rows.jsonl", "val_fraction": 0.0}}
    trained = exported("SentenceEmbedding", {**base("bert", whole), "peft": LORA}, data)
    expected = trained.encode(["some text", "more"])
    again = SentenceEmbedding({"path": "out"})
    again.configure_model()
    same(again.encode(["some text", "more"]), expected)
    modules = json.loads(Path("out/modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling", "Normalize"]
    assert all(Path("out", module["path"]).is_dir() for module in modules)
    encoder = AutoModel.from_pretrained("out").eval()
    words = trained.tokenizer(["some text"], return_tensors="pt")
    pooled = encoder(**words).last_hidden_state.mean(1)
    same(torch.nn.functional.normalize(pooled)[0].detach(), expected[0])


def test_an_export_that_was_moved_is_found_and_one_without_its_base_is_refused() -> None:
    Path(".out.tmp/base").mkdir(parents=True)
    Path(".out.tmp/base/model-00001.safetensors").write_text("of an export that was killed")
    trained = exported("TextClassifier", {**base("bert"), "peft": LORA}, texts())
    assert not list(Path().rglob("model-00001.safetensors"))
    shutil.move("out", "elsewhere")
    again = TextClassifier({"path": "elsewhere"}, num_classes=3)
    again.configure_model()
    same(again.eval()(IDS, MASK), trained(IDS, MASK).detach())
    shutil.rmtree("elsewhere/base")
    with pytest.raises(ConfigError, match=r"network.path: given 'elsewhere'; allowed: an adapter whose base is there"):
        TextClassifier({"path": "elsewhere"}, num_classes=3).configure_model()


def test_a_head_with_names_is_tested_on_its_own_classes_alone(recwarn: pytest.WarningsRecorder) -> None:
    exported("TextClassifier", base("bert"), texts())
    config = json.loads(Path("config.yaml").read_text())
    config["model"]["init_args"]["network"] = {"path": "out"}
    Path("config.yaml").write_text(json.dumps(config))
    Path("rows.jsonl").write_text(Path("rows.jsonl").read_text().replace("spam", "bacon"))
    with pytest.raises(ConfigError, match="without: spam"):
        command(["test", "-c", "config.yaml", "--debug"])
    with pytest.warns(UserWarning, match="trained for the classes eggs, ham, spam; it goes on with other ones"):
        command(["fit", "-c", "config.yaml", "--run_dir=again", "--debug"])


@pytest.mark.parametrize("kind", ["PromptTuningConfig", "PrefixTuningConfig"])
def test_a_prompt_that_was_learned_and_its_head(kind: str) -> None:
    from peft import AutoPeftModelForSequenceClassification

    peft = {"class_path": kind, "init_args": {"num_virtual_tokens": 3}}
    trained = exported("TextClassifier", {**base("bert"), "peft": peft}, texts())
    expected = trained(IDS, MASK).detach()
    network = AutoPeftModelForSequenceClassification.from_pretrained("out").eval()
    assert network.config.id2label[2] == "spam"
    same(network(input_ids=IDS, attention_mask=MASK).logits, expected)
    again = TextClassifier({"path": "out"}, num_classes=3)
    again.configure_model()
    same(again.eval()(IDS, MASK), expected)
    parts = {name.split(".")[0] for name, p in again.network.named_parameters() if p.requires_grad}
    assert parts == {"prompt_encoder", "base_model"}
