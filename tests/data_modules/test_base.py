import lightning as L
import pytest
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from lit_decom.data import AnnotatedDataset, ClassificationDataModule
from lit_decom.data.base import bounding_box, stratified_split


class Numbers(AnnotatedDataset):
    """Image i has the value i everywhere and one mask pixel in the upper left corner."""

    def __init__(self, n, transform=None, *, annotations=True):
        super().__init__(("even", "odd"), torch.arange(n) % 2, transform=transform, annotations=annotations)

    def load(self, index):
        mask = torch.zeros(1, 4, 4, dtype=torch.bool)
        mask[0, 0, 0] = True
        image = tv_tensors.Image(torch.full((3, 4, 4), index, dtype=torch.uint8))
        return image, {"masks": tv_tensors.Mask(mask)}


class NumbersModule(ClassificationDataModule):
    n = 10
    class_names = ("even", "odd")

    def make_dataset(self, split, transform):
        return Numbers(self.n, transform, annotations=split != "train")


def order(loader, module):
    values = [(images * module.std.view(3, 1, 1) + module.mean.view(3, 1, 1)) * 255 for images, _ in loader]
    return torch.cat(values)[:, 0, 0, 0].round().int().tolist()


def test_a_negative_index_counts_from_the_end_and_one_too_large_ends_an_iteration():
    dataset = Numbers(3)
    assert dataset[-1][0][0, 0, 0] == 2
    assert len(list(dataset)) == 3
    with pytest.raises(IndexError, match="less than 3"):
        dataset[3]


def test_annotations_are_left_out_of_targets_when_not_wanted():
    assert dict(Numbers(3, annotations=False)[1][1]) == {"label": 1}
    assert set(Numbers(3)[1][1]) == {"label", "masks"}


def test_masks_move_with_the_image_through_transforms():
    _, target = Numbers(3, v2.RandomHorizontalFlip(p=1.0))[0]
    assert target["masks"].nonzero().tolist() == [[0, 0, 3]]


def test_images_are_normalised_with_mean_and_std():
    module = NumbersModule(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125))
    assert module.mean.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert module.std.shape == (3,)
    image, _ = module.val_dataset[7]
    torch.testing.assert_close(image[:, 2, 2].clone(), (7 / 255 - module.mean) / module.std)


def test_validation_keeps_the_order_and_training_drops_the_incomplete_batch():
    module = NumbersModule(batch_size=4)
    module.setup("fit")
    assert order(module.val_dataloader(), module) == list(range(10))
    assert len(order(module.train_dataloader(), module)) == 8
    assert [label for _, target in module.val_dataloader() for label in target["label"].tolist()] == [0, 1] * 5


def test_a_training_set_smaller_than_a_batch_is_not_dropped():
    module = NumbersModule(batch_size=16)
    assert len(order(module.train_dataloader(), module)) == 10


def test_training_order_follows_the_seed_and_changes_with_every_epoch():
    first, same, other = NumbersModule(1, seed=3), NumbersModule(1, seed=3), NumbersModule(1, seed=4)
    loader = first.train_dataloader()
    epochs = [order(loader, first), order(loader, first)]
    assert epochs[0] != epochs[1]
    assert epochs[0] == order(same.train_dataloader(), same)
    assert epochs[0] != order(other.train_dataloader(), other)


def test_loaders_without_augmentation_leave_the_global_random_state_alone():
    module = NumbersModule(batch_size=4, augmentation=[])
    before = torch.get_rng_state()
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        list(loader)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_restored_module_continues_the_training_order():
    module = NumbersModule(1, seed=5)
    loader = module.train_dataloader()
    order(loader, module)
    state = module.state_dict()
    resumed = NumbersModule(1, seed=99)
    resumed.load_state_dict(state)
    assert order(resumed.train_dataloader(), resumed) == order(loader, module)


def test_augmentation_is_applied_to_training_images_alone():
    class Count(v2.Transform):
        calls = 0

        def transform(self, inpt, params):
            if isinstance(inpt, tv_tensors.Image):
                Count.calls += 1
            return inpt

    module = NumbersModule(batch_size=2, augmentation=[Count()])
    list(module.val_dataloader())
    assert Count.calls == 0
    list(module.train_dataloader())
    assert Count.calls == 10


def test_workers_persist_only_where_there_are_workers():
    assert not NumbersModule(num_workers=0).train_dataloader().persistent_workers
    loader = NumbersModule(num_workers=2).train_dataloader()
    assert loader.persistent_workers
    assert loader.num_workers == 2


def test_setup_builds_what_the_stage_needs_once():
    class Counting(NumbersModule):
        def __init__(self):
            super().__init__()
            self.made = []

        def make_dataset(self, split, transform):
            self.made.append(split)
            return super().make_dataset(split, transform)

    module = Counting()
    for stage in ("validate", "fit", "fit", "test", "predict"):
        module.setup(stage)
    assert module.made == ["val", "train", "test"]
    assert module.val_dataset is module.val_dataset
    assert module.num_classes == 2
    assert isinstance(module, L.LightningDataModule)


@pytest.mark.parametrize(("argument", "value"), [("batch_size", 0), ("std", (0.1, 0.0, 0.1))])
def test_a_wrong_argument_is_named(argument, value):
    with pytest.raises(ValueError, match=f"`{argument}`"):
        NumbersModule(**{argument: value})


def test_a_box_surrounds_its_mask_with_its_far_edges_outside():
    mask = torch.zeros(5, 7, dtype=torch.bool)
    mask[1, 2] = mask[3, 4] = True
    box = bounding_box(mask)
    assert box.tolist() == [[2, 1, 5, 4]]
    assert box.canvas_size == (5, 7)


def test_a_stratified_split_divides_each_class_alike_without_overlap():
    targets = torch.tensor([0] * 10 + [1] * 20 + [2] * 7)[
        torch.randperm(37, generator=torch.Generator().manual_seed(0))
    ]
    groups = stratified_split(targets, (0.7, 0.3), seed=1)
    assert sorted(torch.cat(groups).tolist()) == list(range(37))
    assert targets[groups[0]].bincount().tolist() == [7, 14, 5]
    assert targets[groups[1]].bincount().tolist() == [3, 6, 2]


def test_a_stratified_split_follows_the_seed():
    targets = torch.arange(40) % 4
    first = stratified_split(targets, (0.5, 0.5), seed=1)[0]
    assert torch.equal(first, stratified_split(targets, (0.5, 0.5), seed=1)[0])
    assert not torch.equal(first, stratified_split(targets, (0.5, 0.5), seed=2)[0])


def test_every_class_is_in_every_group_however_small_its_share():
    groups = stratified_split(torch.tensor([0, 0, 0, 1, 1, 1, 1]), (0.98, 0.01, 0.01), seed=0)
    assert [len(group) for group in groups] == [3, 2, 2]
    with pytest.raises(ValueError, match="at least 3 samples, but got 2 of class 1"):
        stratified_split(torch.tensor([0, 0, 0, 1, 1]), (0.98, 0.01, 0.01), seed=0)


def test_fractions_must_divide_one():
    with pytest.raises(ValueError, match="`fractions`"):
        stratified_split(torch.tensor([0, 0]), (0.5, 0.6), seed=0)
