import pytest
import torch

from lit_decom.models.small_resnet import SmallResNet


def shapes(network, size):
    seen = {}
    for name, module in network.named_children():
        module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: tuple(output.shape)}))
    logits = network(torch.zeros(2, 3, size, size))
    return seen, logits


def test_a_112_pixel_image_ends_on_a_14_by_14_grid_and_widths_double():
    seen, logits = shapes(SmallResNet(8, width=4), 112)
    assert seen["stem"] == (2, 4, 56, 56)
    assert seen["layer1"] == (2, 4, 56, 56)
    assert seen["layer2"] == (2, 8, 28, 28)
    assert seen["layer3"] == (2, 16, 14, 14)
    assert logits.shape == (2, 8)


def test_stages_and_blocks_can_be_chosen():
    network = SmallResNet(3, width=4, n_stages=5, blocks=2)
    seen, _ = shapes(network, 64)
    assert seen["layer5"] == (2, 64, 2, 2)
    assert [len(network.get_submodule(f"layer{k}")) for k in range(1, 6)] == [2] * 5


def test_the_number_of_parameters_is_the_sum_over_its_convolutions():
    w, n = 4, 8
    stem = 27 * w + 2 * w
    first = 2 * 9 * w * w + 4 * w
    second = 9 * w * 2 * w + 9 * 4 * w * w + 2 * w * w + 3 * 2 * 2 * w
    assert sum(p.numel() for p in SmallResNet(n, w, n_stages=2).parameters()) == stem + first + second + 2 * w * n + n


def test_the_head_is_linear_in_the_mean_of_the_last_stage():
    network = SmallResNet(5, width=4).eval()
    kept = {}
    network.layer3.register_forward_hook(lambda _, __, output: kept.update(a=output))
    logits = network(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(logits, kept["a"].mean((2, 3)) @ network.fc.weight.T + network.fc.bias)


def test_dropout_acts_in_training_alone():
    network = SmallResNet(2, width=4, dropout=0.9)
    network.layer1.eval()
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    network.eval()
    assert torch.equal(network(images), network(images))
    network.dropout.train()
    torch.manual_seed(0)
    assert not torch.equal(network(images), network(images))


def test_images_may_have_other_channels():
    assert SmallResNet(2, width=4, in_channels=1)(torch.zeros(1, 1, 32, 32)).shape == (1, 2)


@pytest.mark.parametrize("name", ["num_classes", "width", "n_stages", "blocks"])
def test_a_size_below_one_is_named(name):
    with pytest.raises(ValueError, match=f"Expected `{name}` to be at least 1, but got 0"):
        SmallResNet(**{"num_classes": 2} | {name: 0})
