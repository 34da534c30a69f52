"""What a layer does for the decision: few directions of its channels that tell the classes apart.

Notation: ``z`` are an image's logits, centred over the classes (softmax ignores what they share) and over the images;
``P`` the principal components of ``z``; ``J`` the gradients of the logits with respect to the layer's activations,
``N`` classes by ``C`` channels, summed over positions and averaged over images, so that ``J`` times the change of a
channel's mean activation is the change of the logits to first order. With ``G = P^T J = U diag(s) V^T`` and the varimax
rotation ``R`` of ``V``, factor j has a direction ``D_j`` in the channels, a code ``Q_j`` over the classes and a score
``f_j = q_j^T z`` in every image:

    D = V R,   Q = P U diag(s) R = P G D,   q = P U diag(1/s) R,   z ~ sum over j of Q_j f_j.

With global average pooling and a linear head ``J`` is the head's weight and ``f = D^T`` (mean activation), up to what
the other directions add. Definitions, order, sign and thresholds are our choice.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lit_decom.functional.principal_logits import PrincipalLogits, class_centred, principal_logits
from lit_decom.functional.rotation import first_largest, varimax

UNTRAINED_ABOVE = 0.5  # share of the centred logits' energy that is the same in every image
UNROTATED_BELOW = 0.01  # share of the varimax criterion that the best other rotation lacks
_DEAD = 1e-6  # the layer's first-order effect on the logits, relative to their spread
_WEAK = 1e-5  # singular values of G below this, relative to the largest, are rounding of float32 gradients
_N_RANDOM = 20


@dataclass(frozen=True)
class DecisionFactors:
    """A probe's logits as codes times scores, with the layer's directions that do it.

    The fields are tensors only: ``DecisionFactors(**vars(factors))`` restores it from a checkpoint. K may be 0.

    Attributes:
        codes: ``(N, K)`` Q, how each class uses each factor; columns by descending norm, the entry of largest magnitude
            positive (ties to the lowest class).
        readout: ``(N, K)`` q, from centred logits to scores.
        directions: ``(C, K)`` D, orthonormal columns over the layer's channels.
        mean: ``(N,)``, what is subtracted from logits centred over classes.
        scores: ``(n, K)`` f, the factors' scores; NaN for an image that is not finite.
        shares: ``(K,)`` share of the decision: covariance of the factor's part of the logits with the logits, over
            their variance, both summed over classes. They add up to `r2`; one may be negative.
        r2: ``()`` share of the variance of the centred logits that codes times scores explain; NaN without variance.
        agreement: ``()`` share of images whose prediction codes times scores reproduce.
        constant_share: ``()`` as in :class:`lit_decom.functional.principal_logits.PrincipalLogits`.
        rotation_margin: ``()`` as in :class:`lit_decom.functional.rotation.Rotation`.
        layer_r2: ``()`` share of the variance of codes times scores that the layer's mean activations along the
            directions predict linearly, each image left out in turn; NaN where the images are too few.
        random_r2: ``()`` the same from as many random directions, the mean over some draws.
        tied: ``()`` bool, as in :class:`lit_decom.functional.principal_logits.PrincipalLogits`.
        dead: ``()`` bool, whether the logits do not depend on the layer.
    """

    codes: Tensor
    readout: Tensor
    directions: Tensor
    mean: Tensor
    scores: Tensor
    shares: Tensor
    r2: Tensor
    agreement: Tensor
    constant_share: Tensor
    rotation_margin: Tensor
    layer_r2: Tensor
    random_r2: Tensor
    tied: Tensor
    dead: Tensor

    @property
    def states(self) -> tuple[str, ...]:
        """Why these factors are no result, or less than they seem; empty where nothing speaks against them.

        "no_variation": all images have the same logits. "dead_layer": the logits do not depend on the layer.
        "untrained": most of the logits is the same in every image (`constant_share` above 0.5). "two_classes": there is
        one factor by necessity. "rotation_not_identified": other axes of the same subspace are within 1 % as good, so
        no single factor should be given a name. "subspace_not_identified": so many classes vary alike that the limit on
        the number of factors cut through equals.
        """
        found = {
            "no_variation": bool(self.r2.isnan()),
            "dead_layer": bool(self.dead),
            "untrained": bool(self.constant_share > UNTRAINED_ABOVE),
            "two_classes": len(self.codes) == 2,
            "rotation_not_identified": bool(self.rotation_margin < UNROTATED_BELOW),
            "subspace_not_identified": bool(self.tied),
        }
        return tuple(name for name, holds in found.items() if holds)


def decision_factors(
    logits: Tensor, jacobian: Tensor, pooled: Tensor, *, min_r2: float = 0.97, max_factors: int = 12
) -> DecisionFactors:
    """Decompose what a layer does for the decision, from the gradients of all logits.

    With many classes compute ``G = P^T J`` by one vector-Jacobian product for each principal component of the logits,
    and call :func:`factors_from_products`: the result is the same.

    Args:
        logits: ``(n, N)`` of the probe.
        jacobian: ``(N, C)`` J, gradient of each logit summed over the layer's positions, averaged over the probe.
        pooled: ``(n, C)`` activations of the layer, averaged over its positions.
        min_r2: share of the logits' variance to explain.
        max_factors: at most so many factors.

    Raises:
        ValueError: If shapes do not fit together or an argument is out of range.

    Example:
        A linear head that reads three classes from two channels, the third class from neither:

        >>> head = torch.tensor([[1.5, 0.0], [0.0, 2.0], [0.0, 0.0]])
        >>> pooled = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> factors = decision_factors(pooled @ head.T, head, pooled)
        >>> factors.directions.abs().round(decimals=4).T.tolist()
        [[0.0, 1.0], [1.0, 0.0]]
        >>> factors.codes.round(decimals=1).T.tolist(), round(float(factors.r2), 4)
        ([[-0.7, 1.3, -0.7], [1.0, -0.5, -0.5]], 1.0)
    """
    principal = principal_logits(logits, min_r2=min_r2, max_components=max_factors)
    if jacobian.ndim != 2 or len(jacobian) != logits.shape[1]:
        raise ValueError(f"Expected `jacobian` to be ({logits.shape[1]}, C), but got {tuple(jacobian.shape)}.")
    return factors_from_products(logits, principal, principal.directions.T @ _accurate(jacobian), pooled)


def factors_from_products(
    logits: Tensor, principal: PrincipalLogits, products: Tensor, pooled: Tensor
) -> DecisionFactors:
    """Decompose what a layer does for the decision, from gradients of the principal components of the logits.

    Computed in float64 on the CPU.

    Args:
        logits: ``(n, N)`` of the probe.
        principal: of these logits.
        products: ``(K, C)`` G = P^T J.
        pooled: ``(n, C)`` activations of the layer, averaged over its positions.

    Raises:
        ValueError: If shapes do not fit together, or the products are not finite.
    """
    products, pooled = _accurate(products), _accurate(pooled)
    _check_products(logits, principal, products, pooled)
    usable = logits.cpu().isfinite().all(dim=1) & pooled.isfinite().all(dim=1)
    left, values, right = torch.linalg.svd(products, full_matrices=False)
    spread = torch.linalg.vector_norm(pooled[usable] - pooled[usable].mean(dim=0))
    effect, size = values.amax() * spread if len(values) else 0.0, principal.energies.sum().sqrt()
    dead = bool(effect <= _DEAD * size)
    kept = torch.zeros_like(values, dtype=torch.bool) if dead else values > _WEAK * values[0]
    left, values, basis = left[:, kept], values[kept], right[kept].T
    rotation, margin = varimax(basis)
    codes = principal.directions @ (left * values) @ rotation
    order, signs = _order_and_signs(codes, basis @ rotation)
    codes, readout = codes[:, order] * signs, (principal.directions @ (left / values) @ rotation)[:, order] * signs
    directions = (basis @ rotation)[:, order] * signs
    scores = (class_centred(logits) - principal.mean) @ readout
    fit = _fit(logits[usable.to(logits.device)], principal.mean, codes, scores[usable])
    layer_r2, random_r2 = _predictable(pooled[usable], directions, scores[usable] @ codes.T)
    return DecisionFactors(
        codes=codes,
        readout=readout,
        directions=directions,
        mean=principal.mean,
        scores=scores.masked_fill(~usable[:, None], torch.nan),
        constant_share=principal.constant_share,
        rotation_margin=torch.tensor(margin, dtype=torch.float64),
        layer_r2=layer_r2,
        random_r2=random_r2,
        tied=torch.tensor(principal.tied),
        dead=torch.tensor(dead),
        **fit._asdict(),
    )


def factor_scores(logits: Tensor, factors: DecisionFactors) -> Tensor:
    """Score images, of the probe or others, on factors that were found before.

    Args:
        logits: ``(n, N)``.
        factors: of the same classes.

    Returns:
        ``(n, K)`` float64; NaN for an image whose logits are not finite.
    """
    scores = (class_centred(logits) - factors.mean) @ factors.readout
    return scores.masked_fill(~logits.cpu().isfinite().all(dim=1)[:, None], torch.nan)


def factor_support(codes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """Tell how much each factor speaks for one class of each image: code times score, in logits.

    Args:
        codes: ``(N, K)``.
        scores: ``(n, K)``.
        classes: ``(n,)`` int64.

    Returns:
        ``(n, K)``; positive supports the class.
    """
    return codes[classes] * scores


def least_supporting_factor(codes: Tensor, scores: Tensor, classes: Tensor) -> Tensor:
    """Find the factor that speaks least for, or most against, one class of each image.

    Asked for the right class of an image that the network gets wrong, it is the factor that misled it.

    Args:
        codes: ``(N, K)``.
        scores: ``(n, K)``.
        classes: ``(n,)`` int64, usually the labels.

    Returns:
        ``(n,)`` int64 index of the factor; -1 where the scores are not finite or there is no factor.
    """
    if codes.shape[1] == 0:
        return torch.full_like(classes, -1)
    support = factor_support(codes, scores, classes)
    return torch.where(support.isfinite().all(dim=1), support.nan_to_num().argmin(dim=1), -1)


def factor_maps(codes: Tensor, maps: Tensor, classes: Tensor) -> Tensor:
    """Show where each factor speaks for one class of each image: Grad-CAM of code times score.

    Args:
        codes: ``(N, K)``.
        maps: ``(n, K, h, w)`` signed maps of the scores: the pooled gradient of a score times the activations.
        classes: ``(n,)`` int64.

    Returns:
        ``(n, K, h, w)``, non-negative.
    """
    return (codes.to(maps)[classes][:, :, None, None] * maps).relu()


class _Fit(NamedTuple):
    shares: Tensor
    r2: Tensor
    agreement: Tensor


def _fit(logits: Tensor, mean: Tensor, codes: Tensor, scores: Tensor) -> _Fit:
    """Compare codes times scores with the logits of finite images."""
    varying = class_centred(logits) - mean
    energy = varying.square().sum()
    parts = torch.einsum("nk,ik,in->k", codes, scores, varying)
    told = scores @ codes.T
    r2 = 1 - (varying - told).square().sum() / energy
    same = (told + mean).argmax(dim=1) == logits.cpu().argmax(dim=1)
    constant = energy == 0
    return _Fit(parts / energy, r2.masked_fill(constant, torch.nan), same.double().mean())


def _order_and_signs(codes: Tensor, directions: Tensor) -> tuple[list[int], Tensor]:
    """Order factors by the norm of their codes, equal ones by their strongest channel; signs in that order."""
    norms = torch.linalg.vector_norm(codes, dim=0)
    # Rounded, so that equal norms are equal.
    rounded = (norms / norms.amax() * 1e8).round().tolist() if norms.numel() else []
    channels = [first_largest(column.abs()) for column in directions.T]
    order = sorted(range(len(rounded)), key=lambda j: (-rounded[j], channels[j]))
    signs = [-1.0 if codes[first_largest(codes[:, j].abs()), j] < 0 else 1.0 for j in order]
    return order, torch.tensor(signs, dtype=codes.dtype)


def _predictable(pooled: Tensor, directions: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """How well the layer's mean activations predict what the factors tell, along their directions and random ones."""
    channels, k = directions.shape
    if k == 0:
        return told.new_tensor(torch.nan), told.new_tensor(torch.nan)
    noise = torch.randn(_N_RANDOM, channels, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return _left_out_r2(pooled @ directions, told), _left_out_r2(pooled @ noise, told).mean()


def _left_out_r2(predictors: Tensor, told: Tensor) -> Tensor:
    """Least squares with intercept from ``(..., n, K)`` to ``(n, N)``, each image predicted from the others: R2."""
    n, k = predictors.shape[-2:]
    if n < k + 2:
        return predictors.new_full(predictors.shape[:-2], torch.nan)
    centred = predictors - predictors.mean(dim=-2, keepdim=True)
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    left = left * (values > 1e-10 * values[..., :1])[..., None, :]
    told = told - told.mean(dim=0)
    # Leaving an image out divides its residual by what it does not explain of itself.
    rest = 1 - 1 / n - left.square().sum(dim=-1, keepdim=True)
    errors = (told - left @ (left.mT @ told)) / rest.clamp(min=1e-9)
    share: Tensor = 1 - errors.square().sum(dim=(-2, -1)) / (told * n / (n - 1)).square().sum()
    return share


def _check_products(logits: Tensor, principal: PrincipalLogits, products: Tensor, pooled: Tensor) -> None:
    if products.ndim != 2 or len(products) != principal.directions.shape[1] or not products.isfinite().all():
        raise ValueError(
            f"Expected `products` to be ({principal.directions.shape[1]}, C) and finite, "
            f"but got {tuple(products.shape)}{'' if products.isfinite().all() else ' with NaN or infinity'}."
        )
    if pooled.shape != (len(logits), products.shape[1]):
        raise ValueError(
            f"Expected `pooled` to be ({len(logits)}, {products.shape[1]}), but got {tuple(pooled.shape)}."
        )


def _accurate(values: Tensor) -> Tensor:
    return values.detach().cpu().double()
