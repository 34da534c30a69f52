import re

import pytest
import torch
from torch import nn

from lit_decom.evidence import TargetLayer, TargetLayerError, resolve_layer
from tests.helpers.networks import SmallCNN


class Named(nn.Module):
    num_prefix_tokens = 3


def to_map(output, images, module=None):
    return TargetLayer("layer", module or nn.Identity()).to_map(output, images)


def numbered(*shape):
    return torch.arange(float(torch.Size(shape).numel())).view(shape)


def images(batch, height, width):
    return torch.zeros(batch, 3, height, width)


# ----- names


def nested():
    return nn.ModuleDict(
        {"model": SmallCNN(), "teacher": nn.ModuleDict({"stage1": nn.Identity(), "neck": nn.Identity()})}
    )


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("model.stage2", "model.stage2"),
        ("stage2", "model.stage2"),
        ("stage2.0", "model.stage2.0"),
        ("neck", "teacher.neck"),
        ("model", "model"),
    ],
)
def test_a_name_or_a_unique_dotted_suffix_finds_the_layer(name, full):
    network = nested()
    layer = resolve_layer(network, name)
    assert layer.name == full
    assert layer.module is network.get_submodule(full)


def test_an_exact_name_goes_before_suffixes():
    network = nn.ModuleDict({"stage": nn.Identity(), "inner": nn.ModuleDict({"stage": nn.Linear(1, 1)})})
    assert resolve_layer(network, "stage").module is network["stage"]


def test_every_name_of_a_layer_finds_it():
    network = SmallCNN()
    network.stage, network.part = network.stage2, nn.ModuleDict({"body": network.stage1})
    wrapped = nn.ModuleDict({"model": torch.compile(network, backend="eager")})
    assert resolve_layer(network, "stage").module is network.stage2
    assert resolve_layer(network, "part.body.0").module is network.stage1[0]
    assert resolve_layer(wrapped, "model.part.body").module is network.stage1
    # A second name is exact, and goes before suffixes.
    outer = nn.ModuleDict({"inner": nn.ModuleDict({"stage": nn.Linear(1, 1)}), "one": nn.Identity()})
    outer["stage"] = outer["one"]
    assert resolve_layer(outer, "stage").module is outer["one"]


def test_an_ambiguous_name_lists_its_matches():
    with pytest.raises(TargetLayerError, match=r"'stage1' fits model\.stage1, teacher\.stage1"):
        resolve_layer(nested(), "stage1")


@pytest.mark.parametrize(
    ("name", "alike"),
    [
        ("stage3", "model.stage2 or model.stage1 or teacher.stage1"),
        ("Stage1", "model.stage1 or teacher.stage1 or model.stage2"),
        ("stage2.weight", "model.stage2"),
        ("model.stagee2", "model.stage2"),
    ],
)
def test_an_unknown_name_is_answered_with_those_spelt_alike(name, alike):
    with pytest.raises(TargetLayerError, match=rf"of ModuleDict, but got '{name}'\. Did you mean {re.escape(alike)}"):
        resolve_layer(nested(), name)


@pytest.mark.parametrize("name", ["", "zzz", "."])
def test_a_name_like_no_other_is_answered_with_the_outermost(name):
    with pytest.raises(TargetLayerError, match=r"The outermost are model, model\.stage1, .*teacher"):
        resolve_layer(nested(), name)


def test_a_long_list_is_cut():
    network = nn.Sequential(*(nn.Identity() for _ in range(100)))
    with pytest.raises(TargetLayerError, match=r"The outermost are 0, 1, .*, 9, \.\.\. \(100 in all\)"):
        resolve_layer(network, "x")


@pytest.mark.slow
def test_names_do_not_change_under_compile():
    network = torch.compile(SmallCNN(), backend="eager")
    assert resolve_layer(network, "stage2").name == "stage2"
    assert resolve_layer(nn.ModuleDict({"model": network}), "model.stage2.0").name == "model.stage2.0"


# ----- maps


@pytest.mark.parametrize(
    ("shape", "size"),
    [((2, 5, 7, 7), (224, 224)), ((2, 5, 4, 6), (32, 48)), ((2, 1, 2, 1), (20, 10)), ((2, 64, 8, 8), (64, 64))],
)
def test_channels_first_maps_are_taken_as_they_are(shape, size):
    output = numbered(*shape)
    assert torch.equal(to_map(output, images(2, *size)), output)


@pytest.mark.parametrize(("shape", "size"), [((2, 7, 7, 96), (224, 224)), ((2, 4, 6, 5), (32, 49))])
def test_channels_last_maps_are_turned(shape, size):
    output = numbered(*shape)
    assert torch.equal(to_map(output, images(2, *size)), output.permute(0, 3, 1, 2))


@pytest.mark.parametrize("prefix", [0, 1, 2, 4, 5, 8, 9])
@pytest.mark.parametrize(
    ("grid", "size"),
    [((14, 14), (224, 224)), ((4, 4), (56, 56)), ((5, 5), (80, 80)), ((6, 9), (96, 144)), ((16, 16), (224, 224))],
)
def test_prefix_tokens_of_any_usual_number_are_left_out(prefix, grid, size):
    positions = numbered(2, 3, *grid)
    tokens = torch.cat([torch.full((2, prefix, 3), -1.0), positions.flatten(2).mT], dim=1)
    assert torch.equal(to_map(tokens, images(2, *size)), positions)
    assert torch.equal(to_map(tokens.transpose(0, 1), images(2, *size)), positions)


def test_a_patch_that_does_not_divide_the_image_costs_a_tolerance():
    # Patches of 14 pixels: 7 x 5 positions and a class token.
    tokens = numbered(2, 36, 3)
    found = to_map(tokens, images(2, 100, 80))
    assert torch.equal(found, tokens[:, 1:].mT.unflatten(2, (7, 5)))


def test_a_module_that_declares_its_prefix_is_believed():
    tokens = numbered(1, 19, 2)
    assert torch.equal(to_map(tokens, images(1, 64, 64), Named()), tokens[:, 3:].mT.unflatten(2, (4, 4)))
    with pytest.raises(TargetLayerError):
        to_map(tokens, images(1, 64, 64))
    with pytest.raises(TargetLayerError):
        to_map(numbered(1, 17, 2), images(1, 64, 64), Named())


def test_registers_beside_an_oblong_grid_that_would_also_be_one_of_smaller_patches():
    # 4 x 6 patches of 16 pixels and 4 registers; or 4 x 7 of 13 pixels.
    tokens = numbered(2, 28, 3)
    assert torch.equal(to_map(tokens, images(2, 64, 96)), tokens[:, 4:].mT.unflatten(2, (4, 6)))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((2, 10), (32, 32)),
        ((2, 5, 1, 1), (32, 32)),
        ((2, 5, 8, 2), (32, 32)),
        ((3, 5, 8, 8), (32, 32)),
        ((2, 5, 64, 64), (32, 32)),
        ((2, 3, 3), (32, 32)),
        ((2, 7, 3), (32, 32)),
        ((2, 77, 3), (32, 32)),
        ((2, 1, 3), (32, 32)),
        ((3, 64, 8), (32, 32)),
        ((2, 3, 4, 8, 8), (32, 32)),
        ((2,), (32, 32)),
    ],
)
def test_what_is_no_feature_grid_is_refused(shape, size):
    with pytest.raises(TargetLayerError, match=r"'layer' to return a feature grid of at least 2 positions, but it"):
        to_map(numbered(*shape), images(2, *size))


def test_it_is_a_value_error_too():
    assert issubclass(TargetLayerError, ValueError)
