import pytest
import torch
import torchvision
from torch import nn

from lit_decom import DecomCAM, Explainer, Probe, capture, explain, find_target_layer
from lit_decom.evidence import ForwardError, TargetLayerError
from tests.helpers.networks import (
    CALLS,
    ChannelsLast,
    Drawing,
    NoGradBackbone,
    SmallCNN,
    noise_images,
    seeded,
    transformer,
)
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
        pytest.param("swin_t", 224, "features", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 224, "features", marks=pytest.mark.slow),
        pytest.param("googlenet", 224, "inception5b", marks=pytest.mark.slow),
        pytest.param("regnet_y_400mf", 224, "trunk_output", marks=pytest.mark.slow),
        # The class token alone is read, so no patch of the last block matters, and all passes through the one before.
        pytest.param("vit_b_16", 224, "encoder.layers.encoder_layer_10", marks=pytest.mark.slow),
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
    assert layer.name == "blocks.1"
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

    with pytest.warns(UserWarning, match="The logits do not depend on `target_layer='stage2'` of Blind"):
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


# ----- the weights say nothing


class Residual(SmallCNN):
    """A residual block whose branch is closed by zeros at first, at a finer grid than that of the last stage."""

    def __init__(self):
        super().__init__()
        self.block = Branch(8)

    def features(self, images):
        return self.stage2(self.block(self.stage1(images)))


class Branch(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        nn.init.zeros_(self.norm.weight)

    def forward(self, features):
        return features + self.norm(self.conv(features))


def nothing(network):
    return network


def zeros(network):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    return network


def not_finite(network):
    with torch.no_grad():
        network.stage1[0].weight.fill_(float("nan"))
    return network


@pytest.mark.parametrize("change", [nothing, seeded, zeros, not_finite])
def test_the_layer_does_not_depend_on_the_weights(change):
    network = change(Residual().eval())
    assert find_target_layer(network, images=noise_images(1), min_positions=16).name == "block"
    assert find_target_layer(network, images=noise_images(1)).name == "stage2"


def test_the_layer_does_not_depend_on_what_the_images_show():
    blank = torch.zeros(2, 3, 32, 32)
    assert find_target_layer(seeded(SmallCNN()), images=blank).name == "stage2"


# ----- all influence passes through it


class Branches(nn.Module):
    """Two convolutions side by side, put together, as in Inception."""

    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Conv2d(12, 6, 1), nn.Conv2d(12, 6, 3, padding=1)

    def forward(self, features):
        return torch.cat([self.narrow(features), self.wide(features)], dim=1)


class Ending(SmallCNN):
    """Ends its features with one more module."""

    def __init__(self, *end, n_classes=5):
        super().__init__(n_classes)
        self.end = nn.Sequential(*end)

    def features(self, images):
        return self.end(self.stage2(self.stage1(images)))


class PoolFormerLayer(Branch):
    """Called as poolings are, and none."""


class IdentityBlock(Branch):
    pass


@pytest.mark.parametrize("block", [Branches(), PoolFormerLayer(12), IdentityBlock(12)])
def test_a_block_is_explained_whatever_it_is_called_and_whatever_branches_it_has(block):
    assert find_target_layer(seeded(Ending(block)), images=noise_images(1)).name == "end"


@pytest.mark.parametrize("module", [nn.ZeroPad2d((0, 1, 0, 1)), nn.Identity(), nn.MaxPool2d(3, 1, 1), nn.Dropout2d()])
def test_padding_and_the_like_are_not_explained(module):
    network = seeded(Ending(module))
    network.features = lambda images: network.end[0](network.stage2(network.stage1(images)))
    assert find_target_layer(network, images=noise_images(1)).name == "stage2"


def test_a_map_of_the_classes_is_explained_only_where_there_is_nothing_else():
    class Mapped(SmallCNN):
        def __init__(self):
            super().__init__()
            self.classes = nn.Sequential(nn.Conv2d(12, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def forward(self, images):
            return self.classes(self.features(images))

    assert find_target_layer(seeded(Mapped()), images=noise_images(1)).name == "stage2"
    alone = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert find_target_layer(alone, images=noise_images(1)).name == "0"
    # As many channels as classes make no map of the classes where weights follow.
    assert find_target_layer(seeded(SmallCNN(n_classes=12)), images=noise_images(1)).name == "stage2"


def test_a_block_goes_before_the_parts_of_the_next():
    network = torchvision_model("mobilenet_v2")
    assert find_target_layer(network, images=photographs(64)).name == "features.6"


def test_stages_that_the_network_lists_go_first():
    network = seeded(Ending(Branch(12), Branch(12)))
    assert find_target_layer(network, images=noise_images(1)).name == "end"
    network.feature_info = [{"module": "stage1"}, {"module": "end.0"}]
    assert find_target_layer(nn.Sequential(network), images=noise_images(1)).name == "0.end.0"


class TwoTowers(SmallCNN):
    def __init__(self, weight):
        super().__init__()
        self.other, self.weight = SmallCNN(), weight

    def forward(self, images):
        return super().forward(images) + self.weight * self.other(images)


def test_where_no_layer_holds_all_the_one_that_holds_most_is_taken_and_the_rest_reported():
    with pytest.warns(
        UserWarning, match=r"through `target_layer='stage2'` of TwoTowers.* a share of 0\.\d\d passes by"
    ):
        assert find_target_layer(seeded(TwoTowers(0.2)), images=noise_images(1)).name == "stage2"
    with pytest.warns(UserWarning, match="passes by"):
        assert find_target_layer(seeded(TwoTowers(5.0)), images=noise_images(1)).name == "other.stage2"


def test_influence_that_no_gradient_shows_is_found_by_the_numbers():
    class Hidden(SmallCNN):
        def forward(self, images):
            features = self.stage1(images)
            return self.head(self.stage2(features).mean(dim=(2, 3))) + features.detach().mean(dim=(2, 3))[:, :5]

    assert find_target_layer(seeded(Hidden()), images=noise_images(1)).name == "stage1"


def test_a_forward_that_detaches_or_does_not_record_is_searched_by_the_numbers():
    class Detached(SmallCNN):
        def features(self, images):
            return super().features(images).detach()

    assert find_target_layer(seeded(Detached()), images=noise_images(1)).name == "stage2"
    assert find_target_layer(seeded(NoGradBackbone()), images=noise_images(1)).name == "stage2"


def test_an_image_of_another_size_is_asked_for():
    network = transformer(prefix=0)
    with pytest.raises(TargetLayerError, match=r"raised RuntimeError.*of another size, pass some as `images=`"):
        find_target_layer(network)
    with pytest.raises(ForwardError) as caught:
        find_target_layer(network, images=noise_images(1, 64))
    assert "images=" not in str(caught.value)


def test_the_search_is_bounded():
    class Deep(nn.Sequential):
        def __init__(self):
            blocks = [Branch(4) for _ in range(60)]
            super().__init__(nn.Conv2d(3, 4, 4, 4), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))

        def forward(self, images):
            CALLS[self] += 1
            return super().forward(images)

    network = seeded(Deep())
    assert find_target_layer(network, images=noise_images(1)).name == "60"
    assert CALLS[network] == 3


def test_inside_a_wrapper_for_several_devices_names_are_the_models_own():
    network, images = seeded(SmallCNN()), noise_images()
    wrapped = nn.DataParallel(network)
    assert find_target_layer(wrapped, images=images).name == find_target_layer(network, images=images).name
    assert find_target_layer(wrapped, "stage2").name == "stage2"
    probe, method = Probe.from_tensors(images, torch.arange(len(images)) % 3), DecomCAM(n_components=2)
    shown, plain = (explain(model, probe, Explainer(method)) for model in (wrapped, network))
    assert shown.capture.layer.name == plain.capture.layer.name
    assert torch.equal(shown.decomposition.cam, plain.decomposition.cam)
