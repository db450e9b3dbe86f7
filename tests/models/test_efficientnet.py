import pytest
import torch
from torch.nn import functional as F

from lit_ft.core.errors import ConfigError
from lit_ft.core.network import Network
from lit_ft.models import image_classifier
from lit_ft.models.efficientnet import EfficientNetLite0, SameConv

SPEC = Network(path="packaged:efficientnet-lite0")


@pytest.mark.parametrize(("size", "kernel", "stride"), [(8, 3, 2), (7, 3, 2), (8, 5, 2), (9, 5, 1), (4, 1, 2)])
def test_same_padding_by_hand(size, kernel, stride):
    convolution = SameConv(1, 1, kernel, stride, bias=False)
    x = torch.randn(1, 1, size, size)
    out = -(-size // stride)
    missing = max((out - 1) * stride + kernel - size, 0)
    wide = torch.zeros(1, 1, size + missing, size + missing)
    wide[:, :, missing // 2 : missing // 2 + size, missing // 2 : missing // 2 + size] = x
    expected = F.conv2d(wide, convolution.weight, stride=stride)
    assert expected.shape[-1] == out
    torch.testing.assert_close(convolution(x), expected)


def test_size_of_the_network():
    assert sum(p.numel() for p in EfficientNetLite0(1000).parameters()) == 4_652_008


def test_grey_images_are_refused():
    with pytest.raises(ConfigError, match="3 channels"):
        image_classifier(SPEC, 10, (1, 28, 28))


@pytest.mark.real
def test_real_photographs_are_recognised():
    from sklearn.datasets import load_sample_images

    network = image_classifier(SPEC, 1000, (3, 224, 224)).eval()
    images = torch.stack([torch.from_numpy(image.copy()) for image in load_sample_images().images]).permute(0, 3, 1, 2)
    images = images[..., 106:533]  # the square in the middle
    images = F.interpolate(images.float(), (224, 224), mode="bilinear", antialias=True) / 127.5 - 1
    with torch.no_grad():
        chances = network(images).softmax(-1)
    assert chances.argmax(-1).tolist() == [698, 985], "a palace and a daisy, by the classes of ImageNet"
    assert chances.amax(-1).min() > 0.1
    ten = image_classifier(SPEC, 10, (3, 32, 32))
    assert ten(images[:, :, :32, :32]).shape == (2, 10)
