import pytest
import torch
import torchvision
from torch import nn

from lit_decom import capture, find_target_layer
from lit_decom.evidence import TargetLayerError
from tests.helpers.networks import ChannelsLast, Drawing, SmallCNN, noise_images, seeded, transformer
from tests.helpers.unchanged import assert_unchanged, everything, half_trained


def torchvision_model(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torchvision.models.get_model(name, weights=None)


def photographs(size):
    return noise_images(1, size)


@pytest.mark.parametrize(("size", "expected"), [(64, "layer2"), (112, "layer3"), (224, "layer4")])
def test_the_deepest_stage_with_seven_by_seven_positions_of_a_resnet(size, expected):
    assert find_target_layer(torchvision_model("resnet18"), images=photographs(size)).name == expected


def test_without_images_the_size_is_224():
    assert find_target_layer(torchvision_model("resnet18")).name == "layer4"


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        pytest.param("vgg11", 224, "features", marks=pytest.mark.slow),
        ("mobilenet_v3_small", 224, "features"),
        pytest.param("convnext_tiny", 224, "features", marks=pytest.mark.slow),
        pytest.param("densenet121", 224, "features", marks=pytest.mark.slow),
        pytest.param("swin_t", 224, "permute", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 224, "features", marks=pytest.mark.slow),
        pytest.param("googlenet", 224, "inception5b", marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", 224, "trunk_output", marks=pytest.mark.slow),
        # The class token alone is read, so no patch behind the last attention matters.
        pytest.param("vit_b_16", 224, "encoder.layers.encoder_layer_11.ln_1", marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
def test_the_layer_found_in_architectures_of_torchvision(name, size, expected):
    network = torchvision_model(name)
    layer = find_target_layer(network, images=photographs(size))
    assert layer.name == expected
    if name.startswith("vit"):
        # Its head starts at zero, which hides every dependence.
        nn.init.normal_(network.heads.head.weight, generator=torch.Generator().manual_seed(0))
    evidence = capture(network, layer, photographs(size), 3)
    assert min(evidence.activations.shape[-2:]) >= 7
    assert (evidence.gradients != 0).any()


@pytest.mark.parametrize("zero_head", [False, True])
@pytest.mark.parametrize("sequence_first", [False, True])
def test_no_layer_is_chosen_whose_patches_reach_no_logit(zero_head, sequence_first):
    network = transformer(prefix=1, zero_head=zero_head, sequence_first=sequence_first)
    layer = find_target_layer(network, images=noise_images(1))
    assert layer.name == "blocks.2.norm"
    nn.init.ones_(network.head.weight)
    network.head.weight.data[0] = -1
    assert (capture(network, layer, noise_images(1), 0).gradients != 0).any()


def test_a_transformer_that_reads_its_patches_is_explained_at_its_last_block():
    assert find_target_layer(transformer(prefix=0), images=noise_images(1)).name == "blocks.2"


def test_channels_last_networks():
    assert find_target_layer(seeded(ChannelsLast()), images=noise_images(1)).name == "block"


def test_where_no_stage_has_enough_positions_the_finest_grid_is_taken():
    assert find_target_layer(seeded(SmallCNN()), images=noise_images(1, 8)).name == "stage1"
    assert find_target_layer(seeded(SmallCNN()), images=noise_images(1, 8), min_positions=2).name == "stage2"
    assert find_target_layer(seeded(SmallCNN()), images=noise_images(1, 64), min_positions=17).name == "stage1"


def test_pooling_dropout_and_layers_run_twice_are_no_stages():
    class Pooled(SmallCNN):
        def __init__(self):
            super().__init__()
            self.pool = nn.AvgPool2d(1)
            self.drop = nn.Dropout2d()
            self.same = nn.Identity()
            self.shared = nn.ReLU()

        def forward(self, images):
            features = self.same(self.drop(self.pool(self.features(images))))
            return self.head(self.shared(self.shared(features)).mean(dim=(2, 3)))

    assert find_target_layer(seeded(Pooled()), images=noise_images(1)).name == "stage2"


def test_a_network_in_a_wrapper_is_searched_through():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = SmallCNN()

        def forward(self, images):
            return self.model(images)

    assert find_target_layer(seeded(Wrapper()), images=noise_images(1)).name == "model.stage2"


def test_a_network_that_does_not_look_is_explained_at_its_deepest_stage():
    class Blind(SmallCNN):
        def forward(self, images):
            return self.head(0 * self.features(images).mean(dim=(2, 3)))

    assert find_target_layer(seeded(Blind()), images=noise_images(1)).name == "stage2"


def test_a_network_without_a_grid_is_refused():
    with pytest.raises(
        TargetLayerError, match="Expected Sequential to have a layer with a feature grid, but found none"
    ):
        find_target_layer(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), images=noise_images(1, 8))


def test_a_name_is_resolved_and_not_run():
    network = nn.ModuleDict({"model": SmallCNN()})
    assert find_target_layer(network, "stage2").name == "model.stage2"
    with pytest.raises(TargetLayerError, match="The outermost are model"):
        find_target_layer(network, "layer4")


@pytest.mark.parametrize("network_class", [SmallCNN, Drawing])
def test_searching_changes_nothing(network_class):
    network = half_trained(network_class)
    before = everything(network)
    find_target_layer(network, images=noise_images(1))
    assert_unchanged(network, before)


def test_searching_under_inference_mode_finds_the_same():
    network = seeded(SmallCNN())
    with torch.inference_mode():
        assert find_target_layer(network, images=noise_images(1)).name == "stage2"
