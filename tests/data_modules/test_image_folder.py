import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image
from torchvision.transforms import v2

from lit_decom.data import ImageFolderDataModule
from lit_decom.probe import Probe
from lit_decom.scoring import Scoring

COLOURS = {"cat": (200, 0, 0), "dog": (0, 200, 0), "elk": (0, 0, 200)}


def fill(folder, counts, size=(30, 20)):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", size, COLOURS[name]).save(folder / name / f"{i}.png")
    return folder


def module(root, **arguments):
    return ImageFolderDataModule(root, image_size=16, batch_size=2, **arguments)


def test_folders_of_splits_are_read_as_they_are(tmp_path):
    for split, counts in {"train": {"cat": 3, "dog": 4}, "val": {"cat": 1, "dog": 2}, "test": {"dog": 1}}.items():
        fill(tmp_path / split, counts)
    (tmp_path / "test" / "cat").mkdir()
    Image.new("RGB", (5, 5)).save(tmp_path / "test" / "cat" / "x.JPG", format="JPEG")
    data = module(tmp_path)
    data.setup("fit")
    assert data.class_names == ("cat", "dog")
    assert data.num_classes == 2
    assert data.train_dataset.targets.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert data.val_dataset.targets.tolist() == [0, 1, 1]
    assert [path.name for path in data.test_dataset.paths] == ["x.JPG", "0.png"]


def test_one_folder_is_split_by_class_without_overlap(tmp_path):
    data = module(fill(tmp_path, {"cat": 10, "dog": 5}), val_fraction=0.2)
    assert data.train_dataset.targets.bincount().tolist() == [8, 4]
    assert data.val_dataset.targets.bincount().tolist() == [2, 1]
    assert len({*data.train_dataset.paths, *data.val_dataset.paths}) == 15


def test_a_training_folder_without_validation_folder_is_split(tmp_path):
    fill(tmp_path / "train", {"cat": 4, "dog": 4})
    data = module(tmp_path, val_fraction=0.25)
    assert (len(data.train_dataset), len(data.val_dataset)) == (6, 2)


def test_the_split_follows_the_seed(tmp_path):
    fill(tmp_path, {"cat": 20, "dog": 20})
    first, same, other = (module(tmp_path, seed=seed).val_dataset.paths for seed in (1, 1, 2))
    assert first == same != other


def test_labels_fit_the_pictures_and_images_have_one_size(tmp_path):
    data = module(fill(tmp_path, {"cat": 4, "dog": 4, "elk": 4}))
    for dataset in (data.train_dataset, data.val_dataset):
        for image, target in dataset:
            assert image.shape == (3, 16, 16)
            assert (image.mean((1, 2)) * data.std + data.mean).argmax() == target["label"]
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 16, 16)


def test_evaluation_keeps_the_centre_and_user_augmentation_ends_on_the_same_size(tmp_path):
    (tmp_path / "cat").mkdir()
    picture = Image.new("RGB", (48, 16), (0, 0, 255))
    picture.paste((255, 0, 0), (16, 0, 32, 16))
    for i in range(2):
        picture.save(tmp_path / "cat" / f"{i}.png")
    data = module(tmp_path, val_fraction=0.5, augmentation=[v2.RandomHorizontalFlip(p=1.0)])
    for dataset in (data.val_dataset, data.train_dataset):
        image = dataset[0][0] * data.std.view(3, 1, 1) + data.mean.view(3, 1, 1)
        torch.testing.assert_close(image[0].clone(), torch.ones(16, 16))


def test_images_are_turned_upright_and_grey_ones_become_rgb(tmp_path):
    (tmp_path / "cat").mkdir()
    picture = Image.new("L", (20, 10))
    exif = picture.getexif()
    exif[0x0112] = 6  # the camera was turned by a quarter
    picture.save(tmp_path / "cat" / "0.jpg", exif=exif)
    Image.new("L", (20, 10)).save(tmp_path / "cat" / "1.png")
    dataset = module(tmp_path, val_fraction=0.5).train_dataset
    shapes = {path.name: tuple(dataset.load(i)[0].shape) for i, path in enumerate(dataset.paths)}
    shapes |= {
        path.name: tuple(module(tmp_path, val_fraction=0.5).val_dataset.load(0)[0].shape)
        for path in module(tmp_path, val_fraction=0.5).val_dataset.paths
    }
    assert shapes == {"0.jpg": (3, 20, 10), "1.png": (3, 10, 20)}


def test_mean_and_std_default_to_those_of_imagenet(tmp_path):
    assert module(tmp_path).mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert module(tmp_path).std.tolist() == pytest.approx([0.229, 0.224, 0.225])


def with_masks(tmp_path, counts, size=(30, 20), suffix=".png"):
    """Images with their left half as the object."""
    root = fill(tmp_path / "images", counts, size)
    for path in root.rglob("*.png"):
        mask = Image.new("L", size)
        mask.paste(7, (0, 0, size[0] // 2, size[1]))
        at = (tmp_path / "masks" / path.relative_to(root)).with_suffix(suffix)
        at.parent.mkdir(parents=True, exist_ok=True)
        mask.save(at)
    return root


@pytest.mark.parametrize("suffix", [".png", ".bmp"])
def test_masks_lie_beside_the_images_and_move_with_them(tmp_path, suffix):
    root = with_masks(tmp_path, {"cat": 4, "dog": 4}, suffix=suffix)
    data = module(root, masks=tmp_path / "masks", val_fraction=0.5)
    for _, target in data.val_dataset:
        # The central 20 of 30 columns become 16: the object's border is where it was, in the middle.
        assert target["masks"].dtype == torch.bool
        assert target["masks"][0].float().mean(dim=0).tolist() == [1.0] * 8 + [0.0] * 8
    assert all(set(target) == {"label"} for _, target in data.train_dataset)
    assert all(set(target) == {"label"} for _, target in module(root, val_fraction=0.5).val_dataset)


def test_masks_turn_on_the_scores_that_need_them(tmp_path):
    data = module(with_masks(tmp_path, {"cat": 4, "dog": 4}), masks=tmp_path / "masks", val_fraction=0.5)
    probe = Probe.from_dataset(data.val_dataset, 4)
    assert probe.masks.flatten(1).float().mean(dim=1).tolist() == [0.5] * 4
    assert {"energy_pointing_game", "mask_iou"} <= set(Scoring().metrics_for(probe))


@pytest.mark.parametrize(
    ("mode", "ink"), [("1", 1), ("L", 1), ("P", 3), ("RGB", (0, 0, 1)), ("RGBA", (1, 0, 0, 255)), ("LA", (1, 255))]
)
def test_a_mask_is_whatever_is_not_zero(tmp_path, mode, ink):
    root = with_masks(tmp_path, {"cat": 2})
    for path in (tmp_path / "masks").rglob("*.png"):
        mask = Image.new(mode, (30, 20), {"RGBA": (0, 0, 0, 255), "LA": (0, 255)}.get(mode, 0))
        mask.paste(ink, (0, 0, 15, 20))
        mask.save(path)
    (_, target), *_ = module(root, masks=tmp_path / "masks", val_fraction=0.5).val_dataset
    assert target["masks"].float().mean() == 0.5


class TestErrorsNameTheRemedy:
    def test_no_mask(self, tmp_path):
        root = with_masks(tmp_path, {"cat": 4})
        for path in (tmp_path / "masks").rglob("*.png"):
            path.rename(path.with_suffix(".jpg"))
        with pytest.raises(FileNotFoundError, match=r"for each of 2 images, but 2 have none, .*masks/cat/\d\.png"):
            module(root, masks=tmp_path / "masks", val_fraction=0.5).setup("fit")

    def test_a_mask_of_another_size(self, tmp_path):
        root = with_masks(tmp_path, {"cat": 2})
        for path in (tmp_path / "masks").rglob("*.png"):
            Image.new("L", (20, 30)).save(path)
        with pytest.raises(
            ValueError, match=r"to be \(20, 30\) pixels high and wide, as its image, but got \(30, 20\)"
        ):
            module(root, masks=tmp_path / "masks", val_fraction=0.5).val_dataset[0]

    def test_no_root(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"Expected `root` to be a folder with images.*nowhere"):
            module(tmp_path / "nowhere").setup("fit")

    def test_no_classes(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="move the images of each class into a folder"):
            module(tmp_path).setup("fit")

    def test_no_images(self, tmp_path):
        fill(tmp_path, {"cat": 2})
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog" / "notes.txt").touch()
        with pytest.raises(FileNotFoundError, match="dog, but found none; add some"):
            module(tmp_path).setup("fit")

    def test_no_test_images(self, tmp_path):
        data = module(fill(tmp_path, {"cat": 2, "dog": 2}))
        with pytest.raises(FileNotFoundError, match=r"trainer\.validate"):
            data.setup("test")

    def test_a_validation_class_that_is_not_trained(self, tmp_path):
        fill(tmp_path / "train", {"cat": 1})
        fill(tmp_path / "val", {"cat": 1, "elk": 1})
        with pytest.raises(MisconfigurationException, match=r"among the training classes, but got \['elk'\]"):
            module(tmp_path).setup("fit")

    def test_an_unreadable_image(self, tmp_path):
        fill(tmp_path, {"cat": 2, "dog": 2})
        for path in (tmp_path / "cat").iterdir():
            path.write_bytes(b"not an image")
        with pytest.raises(ValueError, match=r"cat/\d.png to be a readable image; repair or remove it"):
            module(tmp_path).train_dataset[0]

    def test_a_fraction_outside_zero_and_one(self, tmp_path):
        with pytest.raises(ValueError, match="`val_fraction` to be between 0 and 1, but got 1"):
            module(tmp_path, val_fraction=1)

    def test_too_few_images_to_split(self, tmp_path):
        with pytest.raises(MisconfigurationException, match="at least 2 samples, but got 1 of class 1"):
            module(fill(tmp_path, {"cat": 3, "dog": 1})).setup("fit")
