"""Channel weights and maps of the CAM family, from one activation and its gradient."""

from typing import Literal

from torch import Tensor

from lit_decom.functional.base import check_option

ChannelWeight = Literal["sum", "mean", "grad_cam_pp"]


def channel_weights(activations: Tensor, gradients: Tensor, kind: ChannelWeight = "mean") -> Tensor:
    """Weigh every channel by how much the target score grows with it.

    Args:
        activations: activations ``(B, C, h, w)``.
        gradients: gradients ``(B, C, h, w)`` of each image's target score.
        kind: ``"mean"`` over positions (Grad-CAM), ``"sum"`` over positions (DecomCAM; the same up to ``h w``), or
            ``"grad_cam_pp"`` (Grad-CAM++, Chattopadhay et al. 2018, eq. 19: rectified gradients, weighted by
            ``g^2 / (2 g^2 + sum(a) g^3)``). The code that most people use, pytorch-grad-cam, adds 1e-6 to the
            denominator, which the paper does not. For gradients of logits the two agree; those of a cosine are of the
            order of 1e-4, whose squares the constant drowns, and a weight of ``g / 2`` falls to ``10^6 g^3``. So it is
            left out here.

    Returns:
        Weights ``(B, C)``; of ``"grad_cam_pp"``, a position whose denominator is 0 adds nothing.

    Raises:
        ValueError: if the kind is unknown.
    """
    check_option("kind", kind, ChannelWeight)
    if kind == "sum":
        return gradients.sum(dim=(-2, -1))
    if kind == "mean":
        return gradients.mean(dim=(-2, -1))
    # the fraction reduced by g^2, which no small gradient underflows
    denominator = 2 + activations.sum(dim=(-2, -1), keepdim=True) * gradients
    # Never divided by 0, which would make the derivative NaN also where the quotient is not used.
    fraction = gradients.relu() / denominator.masked_fill(denominator == 0, 1)
    return fraction.masked_fill(denominator == 0, 0).sum(dim=(-2, -1))


def x_grad_cam_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Weigh channels by the activation-weighted mean of their gradient (XGrad-CAM, Fu et al. 2020).

    Without the 1e-7 that pytorch-grad-cam adds to the sum of the activations.

    Args:
        activations: activations ``(B, C, h, w)``.
        gradients: gradients ``(B, C, h, w)``.

    Returns:
        Weights ``(B, C)``; 0 where a channel's activations sum to 0.
    """
    mass = activations.sum(dim=(-2, -1))
    weighted = (gradients * activations).sum(dim=(-2, -1))
    return (weighted / mass.masked_fill(mass == 0, 1)).masked_fill(mass == 0, 0)


def weighted_map(activations: Tensor, weights: Tensor) -> Tensor:
    """Sum channels with one weight each and keep what speaks for the target: ``relu(sum_k w_k A_k)``.

    Args:
        activations: activations ``(B, C, h, w)``.
        weights: weights ``(B, C)``.

    Returns:
        Maps ``(B, h, w)``, non-negative.

    Example:
        >>> import torch
        >>> activations = torch.tensor([[[[1.0, 2.0]], [[3.0, 0.0]]]])
        >>> weighted_map(activations, torch.tensor([[1.0, -1.0]]))
        tensor([[[0., 2.]]])
    """
    return (activations * weights[:, :, None, None]).sum(dim=1).relu()
