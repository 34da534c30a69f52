"""Gradients of scores with regard to what altered images are made from, against plain autograd."""

import pytest
import torch

from lit_decom import capture
from lit_decom.evidence import score_gradients
from lit_decom.functional.labels import logits_of_label
from tests.helpers.networks import Faulty, NoGradBackbone, SmallCNN, noise_images, seeded

ROWS = torch.tensor([0, 2, 2, 1])
VARIABLES = torch.tensor([[0.5, 0.1], [1.0, -0.2], [-0.3, 0.0], [0.8, 0.4]])


def alter(images):
    """An image times one number, plus another on its left half."""

    def made(variables, part):
        seen = images[ROWS[part]] * variables[:, 0, None, None, None]
        left = torch.zeros_like(seen)
        left[..., : seen.shape[-1] // 2] = 1
        return seen + left * variables[:, 1, None, None, None]

    return made


def expected(network, images, score):
    variables = VARIABLES.clone().requires_grad_()
    scores = score(network(alter(images)(variables, slice(None))), ROWS)
    return scores.detach(), torch.autograd.grad(scores.sum(), variables)[0]


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("network", [SmallCNN(), NoGradBackbone()])
def test_they_are_those_of_autograd(network, chunk):
    images, targets = noise_images(3), torch.tensor([1, 0, 4])
    evidence = capture(seeded(network), "stage2", images, targets, chunk_size=chunk)
    found = score_gradients(evidence, ROWS, VARIABLES, alter(images))
    plain = expected(seeded(SmallCNN()), images, lambda logits, rows: logits.gather(1, targets[rows][:, None])[:, 0])
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert not any(tensor.requires_grad for tensor in found)


def test_logits_of_labels_are_read_as_the_captures():
    images, asked = noise_images(3), torch.tensor([4, 0, 2])
    evidence = capture(seeded(SmallCNN()), "stage2", images, "predicted", asked=asked)

    def score(logits, rows):
        return logits_of_label(logits, asked[rows]).gather(1, evidence.targets[rows][:, None])[:, 0]

    found = score_gradients(evidence, ROWS, VARIABLES, alter(images))
    torch.testing.assert_close(found, expected(seeded(SmallCNN()), images, score), rtol=1e-4, atol=1e-5)


def test_one_image_that_is_not_finite_spoils_no_other():
    images = noise_images(3)
    evidence = capture(seeded(SmallCNN()), "stage2", images, 1)
    clean = score_gradients(evidence, ROWS, VARIABLES, alter(images))
    broken = images.clone()
    broken[1, 0, 0, 0] = torch.nan
    found = score_gradients(evidence, ROWS, VARIABLES, alter(broken))
    for one, other in zip(found, clean, strict=True):
        assert one[3].isnan().any()
        torch.testing.assert_close(one[:3], other[:3])


def test_the_network_is_as_before():
    network = seeded(SmallCNN()).train()
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = noise_images(3)
    with torch.no_grad():
        score_gradients(capture(network, "stage2", images, 1), ROWS, VARIABLES, alter(images))
    assert all(module.training for module in network.modules())
    assert all((parameter.grad == 1).all() for parameter in network.parameters())
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in state.items())


def test_it_is_as_before_after_a_failure_too():
    network = Faulty(at=2)
    network.load_state_dict(seeded(SmallCNN()).state_dict())
    images = noise_images(3)
    evidence = capture(network, "stage2", images, 1)
    with pytest.raises(OSError, match="the network failed"):
        score_gradients(evidence, ROWS, VARIABLES, alter(images))
    assert all(parameter.grad is None for parameter in network.parameters())
