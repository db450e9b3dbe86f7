"""``lit-ft merge`` on folders that ``transformers`` wrote."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lit_ft.command.merge import merge_command
from lit_ft.core.errors import ConfigError
from lit_ft.merging.expert import expert

BERT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
        "max_position_embeddings": 16}  # fmt: skip
LLAMA = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1, "intermediate_size": 12}  # fmt: skip


def bert(place: Path, seed: int, labels: tuple[str, ...] = ("ham", "spam"), **more: Any) -> Path:
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    config = BertConfig(**{**BERT, **more}, id2label=names, label2id={name: n for n, name in names.items()})
    BertForSequenceClassification(config).save_pretrained(place)
    return place


def llama(place: Path, seed: int, **more: Any) -> Path:
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**{**LLAMA, **more})).save_pretrained(place)
    return place


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two classifiers and their base, a bare encoder."""
    monkeypatch.chdir(tmp_path)
    bert(Path("a"), 1)
    bert(Path("b"), 2)
    torch.manual_seed(0)
    BertModel(BertConfig(**BERT)).save_pretrained("base")
    return tmp_path


def merged(*words: str, to: str = "out") -> dict[str, torch.Tensor]:
    assert merge_command([*words, "--to", to]) == 0
    return expert_tensors(to)


def expert_tensors(folder: str | Path) -> dict[str, torch.Tensor]:
    found = expert(folder)
    return {name: found.read(name).clone() for name in found.shapes}


def refused(*words: str) -> str:
    before = sorted(os.listdir())
    with pytest.raises(ConfigError) as error:
        merge_command([*words, "--to", "out"])
    assert sorted(os.listdir()) == before, "something was left behind"
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_mean_of_two_loads_and_is_the_mean(folders: Path, capsys: pytest.CaptureFixture) -> None:
    found, a, b = merged("linear", "a", "b"), expert_tensors("a"), expert_tensors("b")
    assert found.keys() == a.keys()
    assert all(torch.equal(found[name], a[name] * 0.5 + b[name] * 0.5) for name in a)
    network = AutoModelForSequenceClassification.from_pretrained("out")
    assert network.config.id2label == {0: "ham", 1: "spam"}
    assert not [path for path in Path().glob(".*")]
    assert "cosine" in capsys.readouterr().out


def test_it_gives_the_same_bytes_again_also_from_its_recipe_and_in_parts(folders: Path) -> None:
    words = ["dare", "a", "b", "--base", "base", "--density", "0.5", "--seed", "3"]
    whole = merged(*words)
    merged(*words, to="again")
    assert Path("out/model.safetensors").read_bytes() == Path("again/model.safetensors").read_bytes()
    merged("out/recipe.yaml", to="from_recipe")  # from where it lies
    assert Path("from_recipe/model.safetensors").read_bytes() == Path("out/model.safetensors").read_bytes()
    parts = merged(*words, "--shard_size", "4KB", to="parts")
    assert len(list(Path("parts").glob("*.safetensors"))) == 3
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    AutoModelForSequenceClassification.from_pretrained("parts")
    assert str(folders) not in Path("out/recipe.yaml").read_text()


def test_other_order_of_the_inputs_draws_the_same(folders: Path) -> None:
    words = ["--base", "base", "--density", "0.5"]
    one, other = merged("dare", "a", "b", *words), merged("dare", "b", "a", *words, to="other")
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_changes_to_a_base_whose_body_has_another_prefix(folders: Path, capsys: pytest.CaptureFixture) -> None:
    found = merged("arithmetic", "a", "b", "--base", "base", "--weight", "0.3", "0.4")
    a, b, base = (expert_tensors(name) for name in ("a", "b", "base"))
    name = "encoder.layer.1.attention.self.query.weight"
    expected = base[name] + 0.3 * (a[f"bert.{name}"] - base[name]) + 0.4 * (b[f"bert.{name}"] - base[name])
    assert torch.allclose(found[f"bert.{name}"], expected, atol=1e-7)
    assert torch.allclose(
        found["classifier.weight"], (0.3 * a["classifier.weight"] + 0.4 * b["classifier.weight"]) / 0.7
    )
    assert "the base has no classifier.bias, classifier.weight: averaged" in capsys.readouterr().out


def test_depth_and_blocks(folders: Path) -> None:
    found = merged("lines", "a", "--base", "base", "--alpha", "0")
    a, base = expert_tensors("a"), expert_tensors("base")
    last, first = "encoder.layer.2.output.dense.weight", "encoder.layer.0.output.dense.weight"
    assert torch.equal(found[f"bert.{last}"], a[f"bert.{last}"])
    assert torch.equal(found[f"bert.{first}"], base[first])
    assert torch.equal(found["bert.embeddings.word_embeddings.weight"], base["embeddings.word_embeddings.weight"])
    swapped = merged("swap", "a", "b", "--layers", "{0: 1}", to="swapped")
    b = expert_tensors("b")
    assert torch.equal(swapped[f"bert.{first}"], b[f"bert.{first}"])
    assert torch.equal(swapped[f"bert.{last}"], a[f"bert.{last}"])


def test_a_merge_of_merges_is_not_rounded_in_between(folders: Path) -> None:
    Path("inner.yaml").write_text("{merge: linear, inputs: [a, b]}")
    Path("outer.yaml").write_text("merge: linear\ninputs: [inner.yaml, {merge: linear, inputs: [a, a]}]\n")
    found, a, b = merged("outer.yaml"), expert_tensors("a"), expert_tensors("b")
    assert all(torch.allclose(found[name], (3 * a[name] + b[name]) / 4, atol=1e-6) for name in a)


def test_a_result_that_is_one_of_its_inputs_is_said(folders: Path, capsys: pytest.CaptureFixture) -> None:
    merged("arithmetic", "a", "b", "--base", "base", "--weight", "1", "0", "--head", "a")
    assert "the result is a, bit by bit" in capsys.readouterr().out


def test_weights_that_do_not_sum_to_one_are_said(folders: Path, capsys: pytest.CaptureFixture) -> None:
    merged("linear", "a", "b", "--weight", "0.5", "0.6")
    assert "the weights sum to 1.1" in capsys.readouterr().out


def test_types(folders: Path) -> None:
    found = merged("linear", "a", "b", "--dtype", "bfloat16")
    a, b = expert_tensors("a"), expert_tensors("b")
    assert all(torch.equal(found[name], (a[name] * 0.5 + b[name] * 0.5).bfloat16()) for name in a)
    assert json.loads(Path("out/config.json").read_text())["dtype"] == "bfloat16"
    assert AutoModelForSequenceClassification.from_pretrained("out", dtype="auto").dtype == torch.bfloat16


def test_one_input_untied_makes_the_result_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    llama(Path("tied"), 1, tie_word_embeddings=True)
    llama(Path("apart"), 2, tie_word_embeddings=False)
    found = merged("linear", "tied", "apart")
    tied, apart = expert_tensors("tied"), expert_tensors("apart")
    assert "lm_head.weight" not in tied
    expected = tied["model.embed_tokens.weight"] * 0.5 + apart["lm_head.weight"] * 0.5
    assert torch.equal(found["lm_head.weight"], expected)
    assert json.loads(Path("out/config.json").read_text())["tie_word_embeddings"] is False
    network = AutoModelForCausalLM.from_pretrained("out")
    assert torch.equal(network.lm_head.weight, expected)
    assert not torch.equal(network.lm_head.weight, network.model.embed_tokens.weight)
    both = merged("linear", "tied", "tied", to="both")
    assert "lm_head.weight" not in both
    assert AutoModelForCausalLM.from_pretrained("both").config.tie_word_embeddings


def test_classes_in_another_order_are_put_right(folders: Path, capsys: pytest.CaptureFixture) -> None:
    bert(Path("turned"), 3, labels=("spam", "ham"))
    found, a, other = merged("linear", "a", "turned"), expert_tensors("a"), expert_tensors("turned")
    assert torch.equal(found["classifier.bias"], a["classifier.bias"] * 0.5 + other["classifier.bias"][[1, 0]] * 0.5)
    assert "orders its classes otherwise" in capsys.readouterr().out


def test_whose_head_is_kept(folders: Path) -> None:
    bert(Path("three"), 3, labels=("x", "y", "z"))
    said = refused("linear", "a", "three", "--base", "base")
    assert "three with classifier.bias of shape (3,)" in said
    assert "--head" in said
    found = merged("arithmetic", "a", "three", "--base", "base", "--head", "three")
    assert torch.equal(found["classifier.weight"], expert_tensors("three")["classifier.weight"])
    assert AutoModelForSequenceClassification.from_pretrained("out").config.id2label == {0: "x", 1: "y", 2: "z"}
    bert(Path("others"), 4, labels=("ham", "eggs"))
    shutil.rmtree("out")
    assert "class 'eggs'" in refused("linear", "a", "others")


def test_adapters_are_added_to_their_base(folders: Path) -> None:
    """A LoRA with ranks and scales of its own, a bias and a trained head: as PEFT's own merge has it."""
    import peft

    network = BertForSequenceClassification.from_pretrained("a")
    config = peft.LoraConfig(
        r=2,
        lora_alpha=7,
        use_rslora=True,
        bias="lora_only",
        rank_pattern={"value": 3},
        target_modules=["query", "value"],
    )
    adapted: Any = peft.get_peft_model(network, config)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    from lit_ft.models.adapter_export import merged as dense

    found = dense(adapted, "inputs")
    again = dict(found.state_dict())
    query = "bert.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(again[query], expert_tensors("a")[query])
    found.save_pretrained("dense")
    assert torch.allclose(merged("linear", "dense", "b")[query], again[query] * 0.5 + expert_tensors("b")[query] * 0.5)


def test_an_adapter_is_added_in_float32_whatever_its_base_is_in(folders: Path) -> None:
    """In bfloat16 most of a small change is lost."""
    import peft

    from lit_ft.models.adapter_export import merged as dense

    network = BertForSequenceClassification.from_pretrained("a").bfloat16()
    layer = network.bert.encoder.layer[0].attention.self.query
    before = layer.weight.detach().float().clone()
    adapted: Any = peft.get_peft_model(
        network, peft.LoraConfig(r=1, target_modules=["query"]), autocast_adapter_dtype=False
    )
    query = adapted.base_model.model.bert.encoder.layer[0].attention.self.query
    with torch.no_grad():
        query.lora_A.default.weight.fill_(2**-7)
        query.lora_B.default.weight.fill_(2**-7)
    found = dense(adapted, "inputs").bert.encoder.layer[0].attention.self.query.weight
    assert torch.equal(found.float(), before + query.scaling["default"] * 2**-14)


def broken(change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = load_file("b/model.safetensors")
    tensors = {name: tensor.clone() for name, tensor in tensors.items()}
    change(tensors)
    save_file(tensors, "b/model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["classifier.bias"].fill_(float("nan")), "b with classifier.bias'; allowed: finite numbers"),
        (lambda t: t["classifier.bias"].fill_(float("inf")), "finite numbers"),
        (lambda t: t.pop("bert.pooler.dense.bias"), "b without bert.pooler.dense.bias"),
        (lambda t: t.update({"extra.weight": torch.ones(2)}), "a without extra.weight"),
        (lambda t: t.update({"classifier.bias": torch.ones(3)}), "b with classifier.bias of shape (3,)"),
    ],
)
def test_inputs_that_do_not_fit_are_named(folders: Path, change: Any, message: str) -> None:
    broken(change)
    assert message in refused("linear", "a", "b")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_act", "relu"),
        ("num_attention_heads", 4),
        ("layer_norm_eps", 1e-5),
        ("position_embedding_type", "relative"),
    ],
)
def test_settings_that_give_weights_another_meaning_are_named(folders: Path, key: str, value: object) -> None:
    config = json.loads(Path("b/config.json").read_text())
    Path("b/config.json").write_text(json.dumps({**config, key: value}))
    assert f"b with {key} {value!r}" in refused("linear", "a", "b")


def test_other_bad_input_is_one_line(folders: Path) -> None:
    assert "did you mean 'ties'" in refused("tie", "a", "b")
    assert "TIES.densty" in refused("ties", "a", "b", "--base", "base", "--densty", "0.2")
    assert "TIES.density: given 'many'" in refused("ties", "a", "b", "--base", "base", "--density", "many")
    assert "TIES combines changes" in refused("ties", "a", "b")
    assert "LinearMerge.weight: given [0.5]" in refused("linear", "a", "b", "--weight", "0.5")
    assert "2 for SLERP" in refused("slerp", "a")
    assert "given 'c'" in refused("linear", "a", "c")
    llama(Path("other"), 0)
    assert "other" in refused("linear", "a", "other")
    Path("b/model.safetensors").write_bytes(Path("b/model.safetensors").read_bytes()[:-9])
    assert "given 'b'; allowed: whole files" in refused("linear", "a", "b")
    with pytest.raises(ConfigError, match="does not exist yet or is empty"):
        merge_command(["linear", "a", "base", "--to", "a"])


def test_quantized_and_incomplete_folders(folders: Path) -> None:
    config = json.loads(Path("b/config.json").read_text())
    Path("b/config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    assert "b, which is quantized" in refused("linear", "a", "b")
    merged("linear", "a", "a", "--shard_size", "4KB", to="parts")
    next(iter(sorted(Path("parts").glob("*.safetensors")))).unlink()
    assert "is missing in it" in refused("linear", "a", "parts")


def test_numbers_too_large_for_the_type(folders: Path) -> None:
    broken(lambda t: t["classifier.bias"].fill_(1e6))
    assert "too small for classifier.bias" in refused("linear", "a", "b", "--dtype", "float16")


def test_integers_are_copied_and_statistics_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (1, 3):
        tensors = {
            "norm.running_mean": torch.full((2,), float(number)),
            "norm.num_batches_tracked": torch.tensor(number),
            "norm.weight": torch.full((2,), float(number)),
        }
        save_file(tensors, f"{number}.safetensors")
    found = merged("linear", "1.safetensors", "3.safetensors", "--weight", "1.5", "-0.5")
    assert found["norm.weight"].tolist() == [0, 0]
    assert found["norm.running_mean"].tolist() == [2, 2]
    assert found["norm.num_batches_tracked"] == 1


def test_a_full_disk_leaves_nothing(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))  # type: ignore[attr-defined]
    assert "GB free" in refused("linear", "a", "b")


def test_a_dry_run_writes_nothing(folders: Path, capsys: pytest.CaptureFixture) -> None:
    before = sorted(os.listdir())
    assert merge_command(["linear", "a", "b", "--dry-run"]) == 0
    assert sorted(os.listdir()) == before
    assert "LinearMerge of a, b" in capsys.readouterr().out


def tokenizer(place: Path, words: list[str]) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]").save_pretrained(place)


def test_rows_of_tokens_that_are_numbered_otherwise_are_put_right(folders: Path, capsys: pytest.CaptureFixture) -> None:
    words = ["[UNK]", *(f"w{number}" for number in range(19))]
    tokenizer(Path("a"), words)
    tokenizer(Path("b"), ["[UNK]", *reversed(words[1:])])
    found, a, b = merged("linear", "a", "b"), expert_tensors("a"), expert_tensors("b")
    name = "bert.embeddings.word_embeddings.weight"
    order = [0, *reversed(range(1, 20))]
    assert torch.equal(found[name], a[name] * 0.5 + b[name][order] * 0.5)
    assert "numbers its tokens otherwise" in capsys.readouterr().out
    assert json.loads(Path("out/tokenizer.json").read_text())["model"]["vocab"]["w0"] == 1
    tokenizer(Path("b"), [*words[:-1], "other"])
    shutil.rmtree("out")
    assert "token 'other'" in refused("linear", "a", "b")


@pytest.mark.real
def test_runs_and_an_adapter_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full and LoRA runs of one small network, merged and loaded."""
    from lit_ft.command.cli import command

    monkeypatch.chdir(tmp_path)
    Path("texts.csv").write_text("text,label\n" + "".join(f"good {i},yes\nbad {i},no\n" for i in range(20)))
    LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": 300})).save_pretrained("base")
    tokenizer(Path("base"), ["[UNK]", "good", "bad", *map(str, range(20))])
    base = ["--model=TextClassifier", "--model.network.path=base", "--data=LabelledText", "--data.path=texts.csv"]
    trainer = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--data.max_length=8"]
    peft = "--model.network.peft={class_path: LoraConfig, init_args: {r: 2, target_modules: [q_proj]}}"
    assert command(["fit", *base, *trainer, "--run_dir=full"]) == 0
    assert command(["fit", *base, *trainer, "--run_dir=lora", peft]) == 0
    assert command(["merge", "linear", "full", "lora", "--to", "out"]) == 0
    network = AutoModelForSequenceClassification.from_pretrained("out")
    assert network.config.id2label == {0: "no", 1: "yes"}
    assert Path("out/tokenizer.json").exists()


def test_an_argument_of_the_merge_is_not_an_abbreviated_option(folders: Path) -> None:
    """``--t`` begins as ``--to`` does."""
    found, b = merged("slerp", "a", "b", "--t", "1"), expert_tensors("b")
    assert all(torch.equal(found[name], b[name]) for name in b)


def test_a_merge_of_another_process_is_left_alone(folders: Path) -> None:
    from lit_ft.running.run_folder import held

    aside = Path(".out.tmp")
    aside.mkdir()
    (aside / "half").touch()
    with held(aside):
        assert "no other process works" in refused("linear", "a", "b")
        assert (aside / "half").exists()


def test_a_device_that_is_not_there_and_folders_made_for_nothing(folders: Path) -> None:
    assert "--device: given 'tpuu'" in refused("linear", "a", "b", "--device", "tpuu")
    with pytest.raises(ConfigError, match="given 'c'"):
        merge_command(["linear", "a", "c", "--to", "new/deep/out"])
    assert not Path("new").exists()
