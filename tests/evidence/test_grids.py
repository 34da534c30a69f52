"""Where tokens lie on the image, against what a convolution returned and against timm's own reordering."""

from itertools import product

import pytest
import timm
import torch
from timm.models.hiera import Reroll, Unroll
from torch import nn
from torch.nn import functional as F

from lit_decom import capture
from lit_decom.evidence import TargetLayer, TargetLayerError
from lit_decom.evidence.grids import Declared, Layout, grids_seen
from tests.helpers.networks import noise_images, seeded

SIDES = (56, 64, 84, 97, 100, 112, 130, 160, 224)
SIZES = [(rows, columns) for rows, columns in product(SIDES, SIDES) if rows == columns or (rows + columns) % 3 == 0]
PATCHES = (4, 7, 8, 14, 16, 30, 32)


def images(height, width, batch=2):
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


class Patched(nn.Module):
    """Tokens of square patches behind ``prefix`` others; ``layer`` returns them as they are, ``kept`` is the map."""

    def __init__(self, patch, prefix=0, *, fill=False, wrap=lambda tokens: tokens):
        super().__init__()
        self.embed = nn.Conv2d(3, 3, patch, patch)
        self.prefix, self.patch, self.fill, self.wrap = prefix, patch, fill, wrap
        self.layer, self.head = _Wrapped(wrap), nn.Linear(3, 4)

    def grid(self, images):
        height, width = images.shape[-2:]
        return self.embed(F.pad(images, (0, -width % self.patch, 0, -height % self.patch)) if self.fill else images)

    def forward(self, images):
        self.kept = self.grid(images)
        tokens = self.kept.flatten(2).mT
        tokens = torch.cat([tokens.new_full((len(tokens), self.prefix, 3), -1.0), tokens], dim=1)
        tokens = self.layer(tokens)
        tokens = tokens if isinstance(tokens, torch.Tensor) else next(v for v in _values(tokens) if v is not None)
        return self.head(tokens.mean(dim=1))


class _Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, tokens):
        return self.wrap(tokens)


def _values(output):
    return output.values() if isinstance(output, dict) else output


def is_misread(network, shown, *, guessed=False):
    """Whether the map of the layer is another one than what the convolution returned."""
    found = []
    with grids_seen(network) as layout, torch.no_grad():
        handle = network.layer.register_forward_hook(lambda *seen: found.append(seen[2]))
        network(shown)
        handle.remove()
    if network.kept[0, 0].numel() == 1:
        return False  # less than two patches: nobody would explain it
    try:
        mapped = TargetLayer("layer", network.layer).to_map(found[0], shown, None if guessed else layout)
    except TargetLayerError:
        return True
    return mapped.shape != network.kept.shape or not torch.equal(mapped, network.kept)


@pytest.mark.parametrize("patch", PATCHES)
@pytest.mark.parametrize("prefix", [0, 1, 2, 3, 5, 17])
def test_no_grid_is_misread_whatever_is_left_over_at_the_border(patch, prefix):
    networks = [Patched(patch, prefix, fill=fill) for fill in (False, True)]
    wrong = [size for size in SIZES for network in networks if is_misread(network, images(*size, batch=1))]
    assert wrong == []


def test_by_their_number_alone_grids_are_misread():
    networks = [Patched(patch, 1) for patch in PATCHES]
    wrong = [size for size in SIZES for net in networks if is_misread(net, images(*size, batch=1), guessed=True)]
    assert len(wrong) > 5


@pytest.mark.parametrize(("size", "patch"), [((100, 84), 14), ((100, 84), (20, 12)), ((64, 97), [16, 16])])
@pytest.mark.parametrize("holder", ["module", "config"])
def test_without_a_convolution_the_declared_size_of_the_patches_counts(size, patch, holder):
    height, width = (patch, patch) if isinstance(patch, int) else patch
    rows, columns = size[0] // height, size[1] // width

    class Config:
        patch_size = None

    network = nn.Module()
    network.part = nn.Module()
    if holder == "config":
        network.part.config = Config()
        network.part.config.patch_size = patch
    else:
        network.part.patch_size = patch
    tokens = torch.arange(float(3 + rows * columns))[None, :, None].expand(2, -1, 5)
    mapped = TargetLayer("layer", network).to_map(tokens, images(*size), Layout(Declared(network)))
    assert mapped.shape == (2, 5, rows, columns)
    assert torch.equal(mapped[0, 0].flatten(), torch.arange(3.0, 3.0 + rows * columns))


@pytest.mark.parametrize("size", [(224, 224), (100, 132), (97, 64)])
def test_tokens_that_were_halved_since_are_a_grid(size):
    network, shown = Patched(4), images(*size)
    with grids_seen(network) as layout:
        network(shown)
    grid = network.kept
    for _ in range(3):
        grid = grid[:, :, ::2, ::2]
        tokens = torch.cat([torch.zeros(2, 1, 3), grid.flatten(2).mT], dim=1)
        assert torch.equal(TargetLayer("layer", network).to_map(tokens, shown, layout), grid)


@pytest.mark.parametrize("size", [(64, 64), (96, 64)])
def test_tokens_that_hiera_takes_apart_are_put_together(size):
    stride, apart = (4, 4), [(2, 2), (2, 2), (2, 2)]
    rows, columns = size[0] // 4, size[1] // 4
    network = nn.Module()
    network.reroll = Reroll(size, stride, apart, [0, 1, 2, 3], 3)
    layer = TargetLayer("blocks.0", network)
    tokens = torch.rand(2, rows * columns, 5, generator=torch.Generator().manual_seed(0))
    unrolled = Unroll(size, stride, apart)(tokens)
    expected = tokens.mT.unflatten(2, (rows, columns))
    assert not torch.equal(unrolled, tokens)
    for block in range(4):
        assert torch.equal(network.reroll(unrolled, block).permute(0, 3, 1, 2), expected)
        assert torch.equal(layer.to_map(unrolled, images(*size), Layout(Declared(network))), expected)
        if block < 3:
            unrolled = unrolled.view(2, 4, -1, 5).amax(dim=1)  # as its blocks pool
            expected = F.max_pool2d(expected, 2)
    # What embeds the patches still has the order of the rows.
    raster = TargetLayer("patch_embed", network).to_map(tokens, images(*size), Layout(Declared(network)))
    assert torch.equal(raster, tokens.mT.unflatten(2, (rows, columns)))


def test_windows_of_tokens_are_no_map():
    # 4 windows of 196 tokens with 192 channels, as in NesT: 196 x 192 would be nearly square.
    with pytest.raises(TargetLayerError):
        TargetLayer("layer", nn.Identity()).to_map(torch.zeros(1, 4, 196, 192), images(224, 224, batch=1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tokens: (tokens, "attention"),
        lambda tokens: [None, tokens],
        lambda tokens: {"loss": None, "tokens": tokens},
    ],
    ids=["tuple", "second of a list", "mapping"],
)
def test_the_first_tensor_of_what_a_block_returns_is_explained(wrap):
    network, shown = seeded(Patched(8, 1, wrap=wrap)), images(40, 32)
    evidence = capture(network, "layer", shown, 2)
    plain = capture(seeded(Patched(8, 1)), "layer", shown, 2)
    assert evidence.activations.shape == (2, 3, 5, 4)
    assert torch.equal(evidence.activations, plain.activations)
    assert torch.equal(evidence.gradients, plain.gradients)
    assert evidence.gradients.abs().max() > 0


def test_an_output_of_hugging_face_keeps_its_type_and_the_other_entries():
    from transformers.modeling_outputs import BaseModelOutput

    kinds = []

    class Encoded(Patched):
        def forward(self, images):
            encoded = self.layer(self.grid(images).flatten(2).mT)
            kinds.append((type(encoded), encoded.attentions, encoded[0] is encoded.last_hidden_state))
            return self.head(encoded.last_hidden_state.mean(dim=1))

    wrap = lambda tokens: BaseModelOutput(last_hidden_state=tokens, attentions=("kept",))  # noqa: E731
    network, shown = seeded(Encoded(8, wrap=wrap)), noise_images(2, 32)
    assert (capture(network, "layer", shown, 2).gradients != 0).all()
    assert kinds == [(BaseModelOutput, ("kept",), True)]


@pytest.mark.parametrize("layer", ["layers.0", "layers.0.blocks.0.norm1", "patch_embed", "patch_embed.proj"])
def test_a_map_with_as_many_channels_as_rows_is_read_as_the_model_says(layer):
    options = {"img_size": 96, "embed_dim": 24, "window_size": 6, "depths": (2, 2), "num_heads": (1, 2)}
    network = seeded(timm.create_model("swin_tiny_patch4_window7_224", num_classes=4, **options)).eval()
    kept = []
    with network.get_submodule(layer).register_forward_hook(
        lambda _module, _args, output: kept.append(output.detach())
    ):
        network(images(96, 96))
    assert kept[0].shape[1:] == (24, 24, 24)
    expected = kept[0] if layer == "patch_embed.proj" else kept[0].permute(0, 3, 1, 2)
    found = capture(network, layer, images(96, 96), 0).activations
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(found, found.transpose(1, 3), atol=1e-2), "one of them is wrong"
