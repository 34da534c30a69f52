import pytest
import torch
from torchvision.transforms import v2

from lit_decom.data import CritterAttributes, CritterAttributesDataModule, Critters
from lit_decom.data.attributes import ATTRIBUTES
from lit_decom.data.figure import SPECIES
from lit_decom.probe import Probe

OPTIONS = {"n_train": 8, "n_val": 16, "n_test": 8, "image_size": 48}


def has(species, attribute):
    return {
        "round ears": species.ears == "round",
        "sleepy eyes": species.eyes == "sleepy",
        "snout": species.nose == "snout",
    }[attribute]


def test_labels_are_what_the_species_have():
    critters = Critters(16, 48)
    several = CritterAttributes(critters)
    for index in range(16):
        species = SPECIES[int(critters.targets[index])]
        image, target = several[index]
        assert target["label"].tolist() == [float(has(species, attribute)) for attribute in ATTRIBUTES]
        assert target["label"].dtype == torch.float32
        assert torch.equal(image, critters[index][0])
    # Of eight species each attribute is in half, and tells none of the others.
    assert several.targets[:8].sum(dim=0).tolist() == [4, 4, 4]
    assert len(set(map(tuple, several.targets[:8].tolist()))) == 8


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_one_attribute_is_there_or_not(attribute):
    critters = Critters(8, 48)
    one = CritterAttributes(critters, [attribute])
    assert [one[index][1]["label"] for index in range(8)] == [
        int(has(SPECIES[label], attribute)) for label in critters.targets.tolist()
    ]
    assert one.classes[1] == attribute
    assert len(one.classes) == 2


def test_masks_are_the_parts_that_tell_the_attributes():
    critters = Critters(4, 48)
    ears, eyes, nose = (critters[1][1]["parts"][place] for place in range(3))
    target = CritterAttributes(critters, ["snout", "round ears"])[1][1]
    assert torch.equal(target["label_masks"], torch.stack([nose, ears]))
    assert set(target) == {"label", "label_masks", "parts"}
    assert torch.equal(CritterAttributes(critters, ["sleepy eyes"])[1][1]["masks"], eyes[None])


def test_masks_move_with_the_image():
    plain, flipped = (
        CritterAttributes(Critters(1, 48, transform=transform))[0][1]["label_masks"]
        for transform in (None, v2.RandomHorizontalFlip(p=1.0))
    )
    assert torch.equal(flipped, plain.flip(-1))
    assert not torch.equal(flipped, plain)


def test_training_needs_no_more_than_labels():
    module = CritterAttributesDataModule(**OPTIONS)
    assert set(module.train_dataset[0][1]) == {"label"}
    images, targets = next(iter(module.train_dataloader()))
    assert targets["label"].shape == (8, 3)
    assert images.shape == (8, 3, 48, 48)


@pytest.mark.parametrize(
    ("attributes", "task", "names"),
    [
        (["snout"], "binary", ("button nose", "snout")),
        (["sleepy eyes", "snout"], "multilabel", ("sleepy eyes", "snout")),
    ],
)
def test_the_module_knows_task_and_names(attributes, task, names):
    module = CritterAttributesDataModule(attributes, **OPTIONS)
    assert (module.task, module.class_names, module.num_classes) == (task, names, 2)
    assert module.val_dataset.classes == names


def test_a_probe_of_them_has_the_part_of_each_row():
    module = CritterAttributesDataModule(**OPTIONS)
    probe = Probe.from_loader(module.val_dataloader(), 12)
    for row, name in enumerate(probe.ids):
        index, label = name.split(":")
        parts = module.val_dataset[int(index)][1]["parts"]
        assert torch.equal(probe.masks[row], parts[ATTRIBUTES.index(label)].as_subclass(torch.Tensor))
    assert probe.part_names == module.part_names


@pytest.mark.parametrize("attributes", [[], ["wings"], ["snout", "snout"]])
def test_attributes_that_there_are_not_are_refused(attributes):
    with pytest.raises(ValueError, match=r"`attributes` to be among .*'snout'\), each once"):
        CritterAttributes(Critters(1, 48), attributes)
