import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.models import image_classifier
from lit_ft.models.small import MLP, ConvNet


def test_mlp_is_the_formula():
    torch.manual_seed(0)
    network = MLP((4,), 3, width=5, depth=2, activation="tanh")
    x = torch.randn(7, 4)
    (w1, b1, w2, b2, w3, b3) = network.parameters()
    expected = torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2) @ w3.T + b3
    torch.testing.assert_close(network(x), expected)
    assert MLP((1, 2, 2), 3, depth=0)(x.reshape(7, 1, 2, 2)).shape == (7, 3)


def test_convnet_is_the_formula():
    torch.manual_seed(0)
    network = ConvNet((1, 7, 7), 10, width=4, depth=2).eval()
    x = torch.randn(3, 1, 7, 7)
    y = x
    for block in network.blocks:
        y = F.conv2d(y, block.convolution.weight, block.convolution.bias, padding=1).relu()
        y = F.max_pool2d(y, 2, ceil_mode=True)
    torch.testing.assert_close(network(x), y.flatten(1) @ network.head.weight.T + network.head.bias)
    assert any("running_mean" in name for name, _ in ConvNet((1, 8, 8), 2, batch_norm=True).named_buffers())


@pytest.mark.parametrize(
    ("config", "shape", "complaint"),
    [
        ({"model_type": "mlp", "widht": 3}, (4,), "did you mean 'width'"),
        ({"model_type": "mlp", "batch_norm": True}, (4,), "batch_norm"),
        ({"model_type": "cnn"}, (4,), "use mlp"),
        ({"model_type": "cnn", "activation": "tan"}, (1, 4, 4), "did you mean 'tanh'"),
        ({"model_type": "mlp", "depth": -1}, (4,), "depth"),
        ({"model_type": "vit"}, (4,), "mlp for vectors"),
    ],
)
def test_wrong_configs_are_refused(config, shape, complaint):
    with pytest.raises(ConfigError, match=complaint):
        image_classifier(Network(config=config), 3, shape)


def test_a_vision_transformer_takes_the_size_of_the_images():
    config = {"model_type": "vit", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
              "intermediate_size": 16, "patch_size": 4}  # fmt: skip
    network = image_classifier(Network(config=config), 5, (1, 8, 8))
    assert network(torch.randn(2, 1, 8, 8)).logits.shape == (2, 5)
    assert network.config.image_size == 8
    lora = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": ["linear"]}}
    adapted = image_classifier(Network(config={"model_type": "mlp"}, peft=lora), 5, (4,))
    assert all("lora_" in name for name, p in adapted.named_parameters() if p.requires_grad)
