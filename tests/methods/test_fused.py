"""FM-G-CAM against its definition, image by image, and against the released code with its defect."""

import numpy as np
import pytest
import torch

from lit_decom import capture
from lit_decom.methods import FMGCAM
from tests.helpers.networks import Patches, SmallCNN, noise_images, plain_evidence, seeded, transformer


def evidence_of(images=None, network=None, layer="stage2", targets=0):
    return capture(network or seeded(SmallCNN()), layer, noise_images() if images is None else images, targets)


def oracle(network, layer, images, n_classes, scale):
    """Each class of each image by a backward pass of its own, in NumPy."""
    logits = plain_evidence(network, layer, images, [0] * len(images))[0]
    classes = np.argsort(-logits.numpy(), axis=1, kind="stable")[:, :n_classes]
    stacks = []
    for row, image in enumerate(images):
        stack = []
        for c in classes[row]:
            _, (activation,), (gradient,) = plain_evidence(network, layer, image[None], [c])
            a, g = activation.double().numpy(), gradient.double().numpy()
            stack.append(sum(g[k].mean() * a[k] for k in range(len(a))) / len(a))
        stack = np.stack(stack)
        for i, j in np.ndindex(stack.shape[1:]):
            most = stack[:, i, j].argmax()
            for k in range(n_classes):
                if k != most:
                    stack[k, i, j] = 0
        for k in range(n_classes):
            if scale == "map":
                stack[k] /= np.linalg.norm(stack[k]) or 1
            elif scale == "columns":
                for j in range(stack.shape[2]):
                    stack[k, :, j] /= np.linalg.norm(stack[k, :, j]) or 1
        stack = np.maximum(stack, 0)
        stacks.append((stack - stack.min()) / (stack.max() - stack.min()))
    return classes, np.stack(stacks)


@pytest.mark.parametrize("scale", ["map", "columns", "none"])
@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_it_is_its_definition(scale, n_classes):
    # In float64, since a column with next to nothing in it is divided by that.
    network, images = seeded(SmallCNN()).double(), noise_images().double()
    found = FMGCAM(n_classes, scale).class_maps(evidence_of(images, network))
    classes, maps = oracle(network, "stage2", images, n_classes, scale)
    assert found.classes.tolist() == classes.tolist()
    np.testing.assert_allclose(found.maps, maps, rtol=0, atol=1e-9)


def test_the_released_code_weighs_what_it_has_weighed_before():
    evidence = evidence_of()
    found = FMGCAM(scale="none").class_maps(evidence)
    in_place, stack = evidence.activations.clone(), []
    for k in range(3):
        weights = torch.stack(
            [
                plain_evidence(evidence.model, "stage2", image[None], [c])[2][0].mean(dim=(1, 2))
                for image, c in zip(evidence.images, found.classes[:, k].tolist(), strict=True)
            ]
        )
        in_place *= weights[:, :, None, None]
        stack.append(in_place.mean(dim=1))
    released = torch.stack(stack, dim=1)
    most = released.argmax(dim=1, keepdim=True)
    released = torch.zeros_like(released).scatter(1, most, released.gather(1, most)).relu()
    released = released / released.amax(dim=(1, 2, 3), keepdim=True)
    assert (found.maps - released).abs().amax(dim=(1, 2, 3)).min() > 0.1


def test_each_position_speaks_for_one_class_at_most_and_the_map_is_their_sum():
    found = FMGCAM().class_maps(evidence_of())
    assert ((found.maps > 0).sum(dim=1) <= 1).all()
    assert ((found.maps > 0).flatten(2).any(dim=2).sum(dim=1) >= 2).any(), "several classes have a place"
    torch.testing.assert_close(found.maps.amax(dim=(1, 2, 3)), torch.ones(4))
    assert torch.equal(FMGCAM()(evidence_of()), found.maps.sum(dim=1))


def test_maps_known_on_paper():
    # Red at one place speaks for class 0, green at another for class 1.
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 0, 0:2, 0:2], picture[0, 1, 4:6, 6:8] = 1.0, 0.5
    network = Patches([[2.0, -1.0, 0.0], [-1.0, 2.0, 0.0], [-9.0, -9.0, 0.0]])
    found = FMGCAM(2, "none").class_maps(evidence_of(picture, network, "colours"))
    expected = torch.zeros(1, 2, 4, 4)
    expected[0, 0, 0, 0], expected[0, 1, 2, 3] = 1.0, 0.5
    assert found.classes.tolist() == [[0, 1]]
    torch.testing.assert_close(found.maps, expected)
    scaled = FMGCAM(2).class_maps(evidence_of(picture, network, "colours"))
    torch.testing.assert_close(scaled.maps, expected.sign())


def test_the_target_does_not_matter():
    assert torch.equal(FMGCAM()(evidence_of(targets=0)), FMGCAM()(evidence_of(targets=3)))


def test_a_network_of_fewer_classes_shows_all_it_has():
    assert FMGCAM(9).class_maps(evidence_of()).maps.shape == (4, 5, 8, 8)


def test_labels_that_are_there_or_not_are_two_classes_of_the_label_asked_about():
    asked = torch.tensor([1, 3])
    evidence = capture(seeded(SmallCNN()), "stage2", noise_images(2), "predicted", asked=asked)
    found = FMGCAM().class_maps(evidence)
    assert {*found.classes[0].tolist()} == {1, 6}
    assert {*found.classes[1].tolist()} == {3, 8}
    # Half the logit, up or down: what speaks for one speaks against the other.
    assert ((found.maps > 0).sum(dim=1) <= 1).all()
    assert (found.maps.flatten(2).amax(dim=2) > 0).any(dim=1).all()


def test_tokens_are_fused_like_any_map():
    network = transformer(prefix=1)
    found = FMGCAM().class_maps(evidence_of(network=network, layer="blocks.1"))
    assert found.maps.shape == (4, 3, 8, 8)
    assert found.maps.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_classes": 0}, r"`n_classes` to be at least 1, but got 0"),
        ({"scale": "rows"}, r"`scale` to be one of 'map', 'columns', 'none', but got 'rows'"),
    ],
)
def test_a_bad_setting_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        FMGCAM(**settings)
