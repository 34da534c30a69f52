import pytest
import torch
from sklearn.datasets import load_digits

from lit_decom.data import Digits, DigitsDataModule


def test_the_labels_and_the_ink_are_those_of_the_scans():
    scans = load_digits()
    dataset = Digits(image_size=80)
    assert len(dataset) == 1797
    assert dataset.targets.tolist() == scans.target.tolist()
    for i in (0, 500, 1796):
        image, target = dataset[i]
        # the ten by ten cells of the enlarged image, less the margin, have the mean ink of the scan
        cells = (image.float() / 255).unfold(1, 8, 8).unfold(2, 8, 8).mean((-2, -1))[0, 1:-1, 1:-1]
        correlation = torch.corrcoef(torch.stack([cells.flatten(), torch.from_numpy(scans.images[i]).flatten() / 16]))
        assert correlation[0, 1] > 0.97
        assert target["label"] == scans.target[i]


def test_the_mask_is_the_bright_half_and_the_box_surrounds_it():
    for image, target in Digits(torch.arange(40)):
        mask = target["masks"][0]
        assert torch.equal(mask, image[0] >= 128)
        assert torch.equal(image[0], image[2])
        x0, y0, x1, y1 = target["boxes"][0].int().tolist()
        assert mask[y0:y1, x0:x1].sum() == mask.sum()
        assert all(line.any() for line in (mask[y0], mask[y1 - 1], mask[:, x0], mask[:, x1 - 1]))


def test_the_margin_is_free_of_ink():
    for _, target in Digits(torch.arange(40), image_size=80):
        assert not target["masks"][0, :4].any()
        assert not target["masks"][0, :, -4:].any()


def test_the_splits_divide_every_digit_alike_and_do_not_overlap():
    module = DigitsDataModule(image_size=16, seed=1)
    module.setup("fit")
    sizes = [len(d) for d in (module.train_dataset, module.val_dataset, module.test_dataset)]
    assert sum(sizes) == 1797
    for dataset, share in zip(
        (module.train_dataset, module.val_dataset, module.test_dataset), (0.7, 0.15, 0.15), strict=True
    ):
        counts = dataset.targets.bincount(minlength=10)
        torch.testing.assert_close(counts.float(), torch.bincount(Digits().targets) * share, atol=1.0, rtol=0)
    assert module.class_names == tuple("0123456789")


def test_the_split_follows_the_seed():
    first, same, other = (DigitsDataModule(seed=seed).val_dataset.targets for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_training_batches_hold_labels_alone_and_validation_batches_masks():
    module = DigitsDataModule(image_size=16, batch_size=4)
    images, target = next(iter(module.train_dataloader()))
    assert images.shape == (4, 3, 16, 16)
    assert list(target) == ["label"]
    assert list(next(iter(module.val_dataloader()))[1]) == ["label", "masks", "boxes"]


def test_a_size_below_the_scan_is_refused():
    with pytest.raises(ValueError, match="`image_size` to be at least 10 pixels, but got 9"):
        Digits(image_size=9)
