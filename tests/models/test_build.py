import shutil

import pytest
import torch
import transformers
from torch import nn

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.methods import SupervisedFineTuning
from lit_ft.models import causal_lm, masked_lm, sequence_classifier, tokenizer

BERT = {
    "model_type": "bert",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def spec(config=None, **arguments):
    return Network(config={**config, "tokenizer": "bytes"} if config else None, **arguments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    causal_lm(spec(LLAMA)).save_pretrained(path)
    tokenizer(spec(LLAMA)).save_pretrained(path)
    return str(path)


def test_bytes_survive_the_way_there_and_back():
    words = tokenizer(spec(LLAMA))
    for text in ("a b  c\n", "caf\u00e9 \u2028 \U0001f600", "<x> '"):
        ids = words(text)["input_ids"]
        assert len(ids) == len(text.encode())
        assert words.decode(ids) == text
    chat = words.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True)
    assert chat == "<s>user\nhi</s>\n<s>assistant\n"
    assert words(chat)["input_ids"][0] == words.bos_token_id


def test_a_config_gives_a_network_that_fits_its_tokenizer():
    network = causal_lm(spec(LLAMA))
    assert network.config.vocab_size == len(tokenizer(spec(LLAMA))) == 263
    assert network.config.pad_token_id == 0
    assert masked_lm(spec(BERT)).cls.predictions.decoder.out_features == 263
    assert sequence_classifier(spec(BERT), 5).classifier.out_features == 5


def test_networks_train_with_dropout_in_the_wanted_type(folder):
    network = causal_lm(Network(path=folder, dtype="bfloat16", attention="eager"))
    assert network.training, "from_pretrained leaves eval mode, in which there is no dropout"
    assert all(module.training for module in network.modules())
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert network.config._attn_implementation == "eager"


def test_weights_come_from_the_folder(folder):
    again = causal_lm(Network(path=folder))
    reference = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), reference.parameters(), strict=True))


def test_checkpointing_gives_the_same_gradient(folder):
    ids = torch.arange(10, 30).reshape(2, 10)
    gradients = []
    for checkpointing in (False, True):
        network = causal_lm(Network(path=folder, gradient_checkpointing=checkpointing))
        network(input_ids=ids, labels=ids).loss.backward()
        gradients.append([p.grad for p in network.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


def test_a_classifier_on_a_decoder_reads_the_last_real_token(folder):
    network = sequence_classifier(Network(path=folder), 3).eval()
    ids = torch.tensor([[20, 21, 22, 0, 0]])
    padded = network(input_ids=ids, attention_mask=(ids != 0).long()).logits
    alone = network(input_ids=ids[:, :3]).logits
    torch.testing.assert_close(padded, alone)


def test_weights_that_start_at_random_are_named(folder, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=50, **sizes)).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="cls.predictions"):
        masked_lm(Network(path=str(tmp_path)))


def test_an_adapter_leaves_the_base_frozen_and_the_new_head_trainable(folder):
    peft = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": ["q_proj"]}}
    network = sequence_classifier(Network(path=folder, peft=peft), 3)
    trainable = {name for name, p in network.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trainable)
    assert any("score" in name for name in trainable)
    assert all("lora_" in name or "score" in name for name in trainable)
    short = Network(path=folder, peft={"class_path": "LoraConfig", "init_args": {"target_modules": "all-linear"}})
    assert any("lora_B" in name for name, _ in causal_lm(short).named_parameters())


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"peft": {"class_path": "peft.LoraConfg"}}, "did you mean 'peft.LoraConfig'"),
        ({"peft": {"class_path": "torch.nn.Linear"}}, "a PeftConfig"),
        ({"peft": {}}, "the path of a class"),
        ({"peft": {"class_path": "peft.LoraConfig", "init_args": {"rank": 8}}}, "rank"),
        ({"peft": {"class_path": "peft.LoraConfig", "init_args": {"target_modules": ["nothing"]}}}, "fits Llama"),
        ({"attention": "fast"}, "network.attention"),
    ],
)
def test_bad_settings_name_their_argument(folder, arguments, complaint):
    with pytest.raises(ConfigError, match=complaint):
        causal_lm(Network(path=folder, **arguments))


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model_type": "lama"}, "did you mean 'llama'"),
        ({}, "model_type"),
        ({"model_type": "llama", "hiden_size": 8}, "did you mean 'hidden_size'"),
    ],
)
def test_a_wrong_config_is_refused(config, complaint):
    with pytest.raises(ConfigError, match=complaint):
        causal_lm(Network(config=config))
    with pytest.raises(ConfigError, match="tokenizer"):
        tokenizer(Network(config=LLAMA))


def test_places_that_do_not_exist(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="nothing is at"):
        causal_lm(Network(path=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"config\.json"):
        causal_lm(Network(path=str(tmp_path)))
    with pytest.raises(ConfigError, match="nothing is at"):
        causal_lm(Network(path="weights.gguf"))
    with pytest.raises(ConfigError, match="did you mean 'SmolLM2-135M-Instruct'"):
        causal_lm(Network(path="packaged:SmolLM2"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match="HF_HUB_OFFLINE is set"):
        causal_lm(Network(path="nobody/no-such-model"))


def test_code_of_a_model_does_not_run_unasked(folder, tmp_path):
    import json
    import shutil
    from pathlib import Path

    place = tmp_path / "remote"
    shutil.copytree(folder, place)
    config = json.loads((place / "config.json").read_text())
    config |= {"model_type": "of_its_own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (place / "config.json").write_text(json.dumps(config))
    Path(place / "own.py").write_text("raise RuntimeError('it ran')")
    with pytest.raises(ConfigError, match=r"trust_remote_code.*Read them first"):
        causal_lm(Network(path=str(place)))


def test_gguf_is_expanded_once(tmp_path, monkeypatch):
    """A float GGUF written by the reference library gives the network it was made from."""
    gguf = pytest.importorskip("gguf")
    monkeypatch.setenv("LIT_FT_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    heads, width, words = 2, 64, 40
    writer = gguf.GGUFWriter(str(tmp_path / "tiny.gguf"), "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(96)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_rope_dimension_count(width // heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(words)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["<pad>", "</s>", *[chr(97 + i % 26) * (1 + i // 26) for i in range(words - 2)]])
    writer.add_token_merges(["a a"])
    writer.add_token_types([3, 3] + [1] * (words - 2))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (words, width), "output_norm": (width,), "output": (words, width), "blk.0.attn_norm": (width,),
        "blk.0.ffn_norm": (width,), "blk.0.attn_q": (width, width), "blk.0.attn_k": (width, width),
        "blk.0.attn_v": (width, width), "blk.0.attn_output": (width, width), "blk.0.ffn_gate": (96, width),
        "blk.0.ffn_up": (96, width), "blk.0.ffn_down": (width, 96),
    }  # fmt: skip
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    for name, tensor in weights.items():
        writer.add_tensor(f"{name}.weight", tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    network = causal_lm(Network(path=str(tmp_path / "tiny.gguf")))
    assert torch.equal(network.model.embed_tokens.weight, weights["token_embd"])
    assert torch.equal(network.model.layers[0].mlp.down_proj.weight, weights["blk.0.ffn_down"])
    assert isinstance(network.model.layers[0].mlp.down_proj, nn.Linear)
    made = sorted((tmp_path / "cache" / "gguf").glob("tiny-*/model.safetensors"))
    before = made[0].stat().st_mtime_ns
    assert (
        len(tokenizer(Network(path=str(tmp_path / "tiny.gguf")))) == words + 1
    )  # the end of text that every GPT-2 tokenizer has
    causal_lm(Network(path=str(tmp_path / "tiny.gguf")))
    assert made[0].stat().st_mtime_ns == before


@pytest.mark.real
def test_the_packaged_chat_model_answers():
    words, network = (make(Network(path="packaged:SmolLM2-135M-Instruct")) for make in (tokenizer, causal_lm))
    assert sum(p.numel() for p in network.parameters()) == 134_515_008
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = words.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    network.eval()
    answer = network.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in words.decode(answer)


def without(folder, path, *names):
    """A copy of a model folder that lacks some files."""
    shutil.copytree(folder, path)
    for name in names:
        (path / name).unlink()
    return str(path)


def test_what_a_folder_lacks_is_one_error(folder, tmp_path):
    bare = without(folder, tmp_path / "bare", "tokenizer.json", "tokenizer_config.json")
    with pytest.raises(ConfigError, match=r"bare.*a folder whose tokenizer can be loaded"):
        tokenizer(Network(path=bare))
    causal_lm(Network(path=bare))
    empty = without(folder, tmp_path / "empty", "model.safetensors")
    with pytest.raises(ConfigError, match=r"a folder whose network can be loaded: .*no file named model.safetensors"):
        causal_lm(Network(path=empty))
    cut = without(folder, tmp_path / "cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="a folder whose network can be loaded"):
        causal_lm(Network(path=cut))
    (tmp_path / "cut" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not a valid JSON file"):
        causal_lm(Network(path=cut))
    with pytest.raises(ConfigError, match=r"a folder, or a file \.gguf"):
        causal_lm(Network(path=f"{folder}/config.json"))


def test_weights_in_parts_and_pickled_weights_are_the_same(folder, tmp_path):
    whole = causal_lm(Network(path=folder))
    whole.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len(list((tmp_path / "parts").glob("model-*.safetensors"))) > 1
    pickled = without(folder, tmp_path / "pickled", "model.safetensors")
    torch.save(whole.state_dict(), tmp_path / "pickled" / "pytorch_model.bin")
    for place in (str(tmp_path / "parts"), pickled):
        again = causal_lm(Network(path=place))
        assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))
    next((tmp_path / "parts").glob("model-00002*")).unlink()
    with pytest.raises(ConfigError, match="model-00002"):
        causal_lm(Network(path=str(tmp_path / "parts")))


def test_a_tokenizer_with_more_tokens_than_the_network_is_refused():
    made = SupervisedFineTuning({"config": {**LLAMA, "tokenizer": "bytes", "vocab_size": 100}})
    assert len(made.tokenizer) == 263
    with pytest.raises(ConfigError, match="at most 100 tokens, the network's; this one has 263"):
        made.configure_model()
    larger = SupervisedFineTuning({"config": {**LLAMA, "tokenizer": "bytes", "vocab_size": 300}})
    assert len(larger.tokenizer) == 263
    larger.configure_model()


@pytest.mark.parametrize("key", ["num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"])
def test_a_count_below_zero_is_refused_by_name(key: str) -> None:
    with pytest.raises(ConfigError, match=f"network.config.{key}: given -1"):
        causal_lm(Network(config={**LLAMA, key: -1}))
