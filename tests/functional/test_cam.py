import pytest
import torch

from lit_decom.functional.cam import channel_weights, weighted_map, x_grad_cam_weights

# One image, two channels of 1 x 2 positions.
ACTIVATIONS = torch.tensor([[[[1.0, 3.0]], [[2.0, 0.0]]]])
GRADIENTS = torch.tensor([[[[1.0, -2.0]], [[0.5, 1.5]]]])


def test_sum_and_mean_weights_by_hand():
    assert channel_weights(ACTIVATIONS, GRADIENTS, "sum").tolist() == [[-1.0, 2.0]]
    assert channel_weights(ACTIVATIONS, GRADIENTS, "mean").tolist() == [[-0.5, 1.0]]


def test_grad_cam_pp_weights_by_hand():
    # Channel 0: sum of activations 4; alpha = 1 / (2 + 4) at the first position, the second has a negative gradient.
    # Channel 1: sum 2; alpha = .25 / (.5 + 2 * .125) = 1/3 and 2.25 / (4.5 + 2 * 3.375) = 0.2.
    weights = channel_weights(ACTIVATIONS, GRADIENTS, "grad_cam_pp")
    torch.testing.assert_close(weights, torch.tensor([[1 / 6, 0.5 / 3 + 1.5 * 0.2]]))


def test_grad_cam_pp_weights_of_zero_gradients_are_zero():
    assert channel_weights(ACTIVATIONS, torch.zeros_like(GRADIENTS), "grad_cam_pp").tolist() == [[0.0, 0.0]]


def test_grad_cam_pp_weights_skip_a_position_whose_denominator_is_zero():
    # sum of activations -2; 2 + sum(a) g is 0 at the first position, 1 at the second
    found = channel_weights(torch.tensor([[[[-1.0, -1.0]]]]), torch.tensor([[[[1.0, 0.5]]]]), "grad_cam_pp")
    assert found.tolist() == [[0.5]]


def test_grad_cam_pp_weights_of_small_gradients_are_half_of_them():
    for scale in (1e-4, 1e-25):
        found = channel_weights(ACTIVATIONS, scale * GRADIENTS, "grad_cam_pp") / scale
        # the rest of the denominator: 4 times 1e-4 over 2
        torch.testing.assert_close(found, torch.tensor([[0.5, 1.0]]), rtol=4e-4, atol=0)


def test_grad_cam_pp_weights_are_those_of_pytorch_grad_cam_but_for_its_constant():
    peer = pytest.importorskip("pytorch_grad_cam.grad_cam_plusplus", exc_type=ImportError)

    def theirs(gradients):
        weights = peer.GradCAMPlusPlus.get_cam_weights(None, None, None, None, ACTIVATIONS.numpy(), gradients.numpy())
        return torch.from_numpy(weights)

    # 1e-6 over twice the square of the smallest positive gradient, .5
    found = channel_weights(ACTIVATIONS, GRADIENTS, "grad_cam_pp")
    torch.testing.assert_close(found, theirs(GRADIENTS), rtol=2e-6, atol=0)
    cosine = channel_weights(ACTIVATIONS, 1e-4 * GRADIENTS, "grad_cam_pp")
    assert (theirs(1e-4 * GRADIENTS) < 0.05 * cosine).all()


def test_x_grad_cam_weights_by_hand():
    # Gradient times activation sums to -5 and 1, the activations to 4 and 2.
    assert x_grad_cam_weights(ACTIVATIONS, GRADIENTS).tolist() == [[-1.25, 0.5]]


def test_x_grad_cam_weight_of_a_silent_channel_is_zero():
    assert x_grad_cam_weights(torch.zeros_like(ACTIVATIONS), GRADIENTS).tolist() == [[0.0, 0.0]]


def test_weighted_map_sums_before_it_rectifies():
    assert weighted_map(ACTIVATIONS, torch.tensor([[1.0, -2.0]])).tolist() == [[[0.0, 3.0]]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_does_not_round_the_maps(dtype):
    generator = torch.Generator().manual_seed(0)
    activations, weights = torch.rand(2, 30, 4, 4, generator=generator), torch.rand(2, 30, generator=generator)
    with torch.autocast("cpu", dtype=dtype):
        under_autocast = weighted_map(activations, weights)
    assert under_autocast.dtype == torch.float32
    assert torch.equal(under_autocast, weighted_map(activations, weights))


def test_an_unknown_weight_is_refused_by_name():
    with pytest.raises(ValueError, match=r"Expected `kind` to be one of 'sum', 'mean', 'grad_cam_pp', but got 'gap'"):
        channel_weights(ACTIVATIONS, GRADIENTS, "gap")
