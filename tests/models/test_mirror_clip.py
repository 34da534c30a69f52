import math

import pytest
import torch
from torch import nn

from lit_decom import ZeroShotClassifier, capture, find_target_layer
from lit_decom.models import MirrorCLIP, SmallResNet, disentangled
from lit_decom.tasks import ClassificationTask
from tests.helpers.modules import callback, loader, trainer
from tests.helpers.networks import ChannelsLast, SmallCNN, noise_images, seeded, transformer, two_sized_images
from tests.methods.test_contracts import every_method, hooks_of, make


def embeddings(n=4, d=5, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def classifier(tower=None):
    return ZeroShotClassifier(tower or seeded(SmallCNN()), embeddings(), logit_scale=20.0).eval()


def of_unit_norm(values):
    norm = math.sqrt(sum(value * value for value in values))
    return [value / norm for value in values] if norm else values


def oracle(straight, mirrored):
    """Both readings of one embedding, number by number, as the method's code has them."""
    f, g = of_unit_norm(straight), of_unit_norm(mirrored)
    visual, textual = [], []
    for a, b in zip(f, g, strict=True):
        sign_agrees = 1.0 if a * b > 0 else 0.0
        visual.append(b + sign_agrees * a)
        textual.append(a - sign_agrees * b)
    return of_unit_norm(visual), of_unit_norm(textual)


class TestDisentangled:
    def test_it_is_what_the_formula_says_number_by_number(self):
        straight, mirrored = embeddings(6, 9, seed=1), embeddings(6, 9, seed=2)
        straight[0, :3] = 0.0
        found = disentangled(straight, mirrored)
        for row in range(6):
            visual, textual = oracle(straight[row].tolist(), mirrored[row].tolist())
            assert found.visual[row].tolist() == pytest.approx(visual, abs=1e-6)
            assert found.textual[row].tolist() == pytest.approx(textual, abs=1e-6)

    def test_what_mirrors_alike_is_seen_and_not_read(self):
        straight = embeddings()
        found = disentangled(straight, straight.clone())
        torch.testing.assert_close(found.visual, nn.functional.normalize(straight, dim=1))
        assert not found.textual.any()

    def test_where_all_signs_differ_the_views_are_the_readings(self):
        straight = torch.tensor([[3.0, -4.0, 0.0]])
        found = disentangled(straight, torch.tensor([[-4.0, 3.0, 0.0]]))
        assert found.visual.tolist() == [pytest.approx([-0.8, 0.6, 0.0])]
        assert found.textual.tolist() == [pytest.approx([0.6, -0.8, 0.0])]

    def test_a_shared_part_is_seen_and_a_part_of_one_view_alone_is_read(self):
        shown, word = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
        found = disentangled(shown + word, shown)
        assert found.visual[0, 0] > 0.99
        assert found.textual[0, 1] > 0.9

    def test_gradients_pass_through_both_views_and_not_through_the_signs(self):
        straight, mirrored = (embeddings(2, 6, seed).double().requires_grad_() for seed in (3, 4))
        assert torch.autograd.gradcheck(disentangled, (straight, mirrored))
        for reading in range(2):
            found = torch.autograd.grad(disentangled(straight, mirrored)[reading][:, 0].sum(), (straight, mirrored))
            assert all((gradient != 0).any() for gradient in found)

    @pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((3,), (3,))])
    def test_shapes_that_do_not_fit_are_refused(self, shapes):
        with pytest.raises(ValueError, match="Expected `straight` and `mirrored` to have the same shape"):
            disentangled(*map(torch.zeros, shapes))


TOWERS = {
    "grid": (lambda: seeded(SmallCNN()), "stage2"),
    "tokens": (transformer, "blocks.1"),
    "tokens first": (lambda: transformer(sequence_first=True), "blocks.1"),
    "no class token": (lambda: transformer(prefix=0), "blocks.1"),
    "registers": (lambda: transformer(prefix=5), "blocks.1"),
}
every_tower = pytest.mark.parametrize("name", TOWERS)
both_readings = pytest.mark.parametrize("reading", ["visual", "textual"])


def made(name, reading="visual"):
    tower, layer = TOWERS[name]
    plain = classifier(tower())
    return plain, MirrorCLIP(plain, reading, f"image_encoder.{layer}").eval()


@both_readings
def test_logits_are_scaled_cosines_of_the_reading(reading):
    plain, images = classifier(), noise_images()
    with torch.no_grad():
        straight, mirrored = plain.image_encoder(images), plain.image_encoder(images.flip(3))
        found = MirrorCLIP(plain, reading)(images)
    for row in range(4):
        read = dict(zip(("visual", "textual"), oracle(straight[row].tolist(), mirrored[row].tolist()), strict=True))
        expected = 20 * torch.tensor(read[reading]) @ plain.class_embeddings.T
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-4)


@every_tower
def test_naming_a_layer_changes_no_logit(name):
    plain, mirror = made(name)
    images = noise_images()
    with torch.no_grad():
        torch.testing.assert_close(mirror(images), MirrorCLIP(plain)(images), rtol=1e-5, atol=1e-5)


@both_readings
@every_tower
def test_the_evidence_is_that_of_both_views_side_by_side(name, reading):
    # In double precision: a sign that rounding turns is another reading, and a short textual one is divided by little.
    plain, mirror = (module.double() for module in made(name, reading))
    images, targets = noise_images(3).double(), torch.tensor([0, 2, 1])
    evidence = capture(mirror, mirror.target_layer, images, targets)
    layer = plain.get_submodule(f"image_encoder.{TOWERS[name][1]}")
    outputs = []
    handle = layer.register_forward_hook(lambda *call: outputs.append(call[2].requires_grad_()))
    views = images.requires_grad_(), images.detach().flip(3).requires_grad_()
    found = disentangled(*map(plain.image_encoder, views))
    handle.remove()
    logits = 20 * getattr(found, reading) @ plain.class_embeddings.T
    gradients = torch.autograd.grad(logits.gather(1, targets[:, None]).sum(), outputs)
    torch.testing.assert_close(evidence.logits, logits.detach(), rtol=1e-6, atol=1e-6)

    def side_by_side(straight, mirrored):
        if name.startswith("tokens first"):
            straight, mirrored = straight.transpose(0, 1), mirrored.transpose(0, 1)
        if straight.ndim == 3:
            straight, mirrored = (view[:, -64:].mT.unflatten(2, (8, 8)) for view in (straight, mirrored))
        return torch.cat([straight, mirrored.flip(3)], dim=1).detach()

    torch.testing.assert_close(evidence.activations, side_by_side(*outputs), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(evidence.gradients, side_by_side(*gradients), rtol=1e-6, atol=1e-7)
    halves = evidence.gradients.chunk(2, dim=1)
    assert all((half != 0).any() for half in halves)


@every_method
def test_every_method_explains_it(name):
    mirror = MirrorCLIP(classifier(), "visual", "image_encoder.stage2").eval()
    maps = make(name)(capture(mirror, mirror.target_layer, noise_images(2), "predicted"))
    assert maps.shape == (2, 8, 8)
    assert (maps >= 0).all()
    assert maps.any()
    assert not hooks_of(mirror)


def test_the_layer_that_was_named_is_the_one_that_is_found():
    mirror = MirrorCLIP(classifier(), "visual", "image_encoder.stage2").eval()
    assert find_target_layer(mirror, images=noise_images()).name == mirror.target_layer


def test_images_need_not_be_square_where_the_layer_returns_a_grid():
    plain = classifier()
    mirror, images = MirrorCLIP(plain, "visual", "image_encoder.stage2").eval(), two_sized_images(2)
    evidence = capture(mirror, mirror.target_layer, images, 0)
    assert evidence.activations.shape == (2, 24, 8, 12)
    torch.testing.assert_close(evidence.logits, MirrorCLIP(plain)(images).detach(), rtol=1e-5, atol=1e-5)


def test_the_classifier_keeps_its_structure_and_shares_its_weights():
    plain = classifier()
    before = {name: id(module) for name, module in plain.named_modules()}
    mirror = MirrorCLIP(plain, "visual", "image_encoder.stage2.0").eval()
    assert {name: id(module) for name, module in plain.named_modules()} == before
    assert {id(weight) for weight in mirror.parameters()} == {id(weight) for weight in plain.parameters()}
    images = noise_images()
    was = mirror(images).detach()
    with torch.no_grad():
        plain.image_encoder.head.bias.add_(1.0)
    assert (mirror(images) - was).abs().max() > 0.1


def test_half_precision_is_widened_before_the_views_are_compared():
    images = noise_images()
    exact = MirrorCLIP(classifier())(images)
    whole = MirrorCLIP(classifier()).bfloat16()(images.bfloat16())
    assert whole.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = MirrorCLIP(classifier())(images)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact, rtol=0.1, atol=2.0)


def test_the_callback_explains_it_while_its_tower_is_trained(tmp_path):
    model = MirrorCLIP(classifier(SmallResNet(5, width=8, n_stages=2)), "visual", "image_encoder.layer2")
    task = ClassificationTask(model.train(), num_classes=4)
    observer = callback(target_layer="layer2.both")
    run = trainer(tmp_path, observer, max_epochs=1)
    run.fit(task, loader(), loader())
    (record,) = observer.directory.records()
    assert record.decomposition.components.isfinite().all()
    assert record.decomposition.valid.any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"reading": "both"}, "Expected `reading` to be one of .*'visual', 'textual'.*, but got 'both'"),
        ({"layer": "stage2"}, "Expected `layer` to be a submodule of the classifier.*SmallCNN has no 'stage2'"),
        ({"layer": "image_encoder.stage3"}, "SmallCNN has no 'image_encoder.stage3'"),
    ],
)
def test_what_is_not_there_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MirrorCLIP(classifier(), **arguments)


@pytest.mark.parametrize(
    ("tower", "layer", "images"),
    [
        pytest.param(seeded(ChannelsLast()), "block", noise_images(), id="channels last"),
        pytest.param(transformer(), "blocks.1.norm", two_sized_images(2, 16, 64), id="tokens of an oblong image"),
        pytest.param(seeded(SmallCNN()), "head", noise_images(), id="no grid"),
    ],
)
def test_a_layer_whose_mirror_image_is_not_known_is_refused(tower, layer, images):
    mirror = MirrorCLIP(classifier(tower), "visual", f"image_encoder.{layer}")
    with pytest.raises(ValueError, match=r"Expected `layer` to return a grid \(B, C, h, w\), or tokens"):
        mirror(images)
