"""DecomCAM the way it is published: one image at a time, with general-purpose tools, and gradients kept of everything.

Our own words for the steps of version 2.5, numbers and order of operations alike; it is what ``integration="v25"``
must be faster than, and agree with. That the masked forwards record a graph is our reading of where the published code
spends its time.
"""

from typing import Any

import torch
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

_SIGMA, _THRESHOLD, _TOP_P = 10.0, 1e-3, 500


class PublishedStyle:
    """Explains images one by one, with hooks that stay on the model.

    Args:
        model: a copy that may be changed: every parameter gets a gradient.
        layer: name of the target layer.
        n_components: how many components.
    """

    def __init__(self, model: nn.Module, layer: str, n_components: int) -> None:
        self.model = model.eval()
        self.n_components = n_components
        self._activation = self._gradient = torch.empty(0)
        model.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self._activation = output.detach()
        output.register_hook(self._keep_gradient)  # type: ignore[no-untyped-call]

    def _keep_gradient(self, gradient: Tensor) -> None:
        self._gradient = gradient.detach()

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, H, W)`` in [0, 1] and contributions ``(B, K)`` of images ``(B, 3, H, W)``."""
        each = [self.explain(image[None], int(target)) for image, target in zip(images, targets, strict=True)]
        return torch.stack([cam for cam, _ in each]), torch.stack([weights for _, weights in each])

    def explain(self, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """Map ``(H, W)`` and contributions ``(K,)`` of one image ``(1, 3, H, W)``."""
        self.model.zero_grad()
        logits = self.model(image)
        logits[0, target].backward(retain_graph=True)
        ossms = F.interpolate(self._components()[None], size=image.shape[-2:], mode="bicubic", align_corners=False)[0]
        weights = self._contributions(image, ossms, target)
        return _stretch((weights[:, None, None] * ossms).sum(dim=0).relu()), weights

    def _components(self) -> Tensor:
        """Rectified principal components ``(K, h, w)`` of the weighted channel maps."""
        activation, importance = self._activation[0], self._gradient[0].mean(dim=(1, 2))
        chosen = importance.argsort(descending=True)[:_TOP_P]
        maps = activation[chosen] * importance[chosen, None, None]
        columns = maps.flatten(1).T.cpu().numpy()
        projected = torch.from_numpy(PCA(self.n_components, svd_solver="full").fit_transform(columns)).T
        # scikit-learn changed its rule of signs in 1.5; this one is what the published maps show.
        largest = projected.gather(1, projected.abs().argmax(dim=1, keepdim=True))
        return (projected * largest.sign()).reshape(-1, *activation.shape[1:]).relu().to(activation)

    def _contributions(self, image: Tensor, ossms: Tensor, target: int) -> Tensor:
        blurred = gaussian_filter(image[0].cpu().numpy(), sigma=(0, _SIGMA, _SIGMA))
        masks = torch.stack([_stretch(ossm) for ossm in ossms])[:, None]
        seen = torch.maximum(image * masks, torch.from_numpy(blurred).to(image) * (1 - masks))
        scores = self.model(seen)[:, target].detach()
        kept = torch.where(scores < _THRESHOLD, torch.zeros_like(scores), scores)
        return kept / kept.max() if kept.max() > 0 else kept


def _stretch(values: Tensor) -> Tensor:
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else torch.zeros_like(values)
