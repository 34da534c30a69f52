"""DecomCAM the way its released class computes it: one image per call, with general-purpose tools.

It is what ``integration="v25"`` must be faster than, and agree with: our own words for the steps of version 2.5
(commit 898a94d, ``pytorch_grad_cam/decom_cam.py`` and ``base_cam.py``), numbers and order of operations alike. The
facts of the release that cost time, each of which is done here, too:

- One image per call. Hooks that stay on the target layer keep its activation in every forward pass, masked ones
  included, and its gradient.
- The forward pass records the whole network, the backward pass runs through all of it, to the gradient of every
  parameter, and the graph is retained until the next call.
- Channel weights in NumPy, two sorts of them, then scikit-learn's PCA with the solver that it chooses.
- Each component is rectified and resized on its own, bicubic, and brought to NumPy.
- SciPy blurs each colour channel of the normalised image on its own (sigma 10, cut at 4 sigma) into float64, so that
  the masked images are composed in float64, one after another, as height x width x channels; they reach the network in
  float32 and laid out channels-last, all of them in one batch, under ``no_grad``.
- The map is summed in NumPy and stretched to [0, 1] twice.

Left out, since it costs nothing or has no place here: CLIP, the incremental PCA above 500 channels, several target
layers, and OpenCV resizing the map to the size that it has. Ours is the sign of a component (its largest entry is
positive, as in scikit-learn up to 1.4, which drew the published maps; later ones turn others), so that there is
something to agree with.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.nn import functional as F

_SIGMA, _TRUNCATE, _THRESHOLD = 10.0, 4.0, 1e-3
_EPSILON = 1e-7

Array = NDArray[Any]


class PublishedStyle:
    """Explains images one by one, with hooks that stay on the model.

    Args:
        model: a copy that may be changed: every parameter gets a gradient.
        layer: name of the target layer.
        n_components: how many components.
        top_p: how many channels.
    """

    def __init__(self, model: nn.Module, layer: str, n_components: int, top_p: int = 500) -> None:
        self.model = model.eval()
        self.n_components, self.top_p = n_components, top_p
        self._activations: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._logits = torch.empty(0)
        model.get_submodule(layer).register_forward_hook(self._keep)

    def _keep(self, _module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        self._activations.append(output.cpu().detach())
        if output.requires_grad:
            output.register_hook(lambda gradient: self._gradients.append(gradient.cpu().detach()))  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Maps ``(B, H, W)`` in [0, 1] and contributions ``(B, K)`` of images ``(B, 3, H, W)``."""
        each = [self.explain(image[None], int(target)) for image, target in zip(images, targets, strict=True)]
        return torch.stack([cam for cam, _ in each]), torch.stack([weights for _, weights in each])

    def explain(self, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """Map ``(H, W)`` and contributions ``(K,)`` of one image ``(1, 3, H, W)``."""
        self._activations, self._gradients = [], []
        self._logits = self.model(image)
        self.model.zero_grad()
        self._logits[0, target].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        ossms = [self._resized(component, image) for component in self._components()]
        scores = self._scores(image, ossms, target)
        weights = [0.0 if score < _THRESHOLD else score / max(scores) for score in scores]
        cam = sum(ossm * weight for ossm, weight in zip(ossms, weights, strict=True))
        cam = _scaled(np.maximum(_scaled(np.maximum(cam, 0).astype(np.float32)), 0))
        return torch.from_numpy(cam), torch.tensor(weights, dtype=torch.float32)

    def _components(self) -> list[Array]:
        """Principal components ``(h, w)`` of the weighted channel maps."""
        importance = torch.from_numpy(self._gradients[0].numpy().mean(axis=(2, 3))).flatten()
        importance.sort(descending=True).values.numpy()
        chosen = importance.sort(descending=True).indices.tolist()[: self.top_p]
        maps = self._activations[0][:, chosen] * importance[None, :, None, None][:, chosen]
        columns = maps.flatten(start_dim=2).squeeze(0).T
        columns = torch.where(columns.isnan(), torch.full_like(columns, 0), columns)
        projected = PCA(self.n_components, random_state=0).fit_transform(columns.numpy())
        signs = np.sign(np.take_along_axis(projected, np.abs(projected).argmax(axis=0)[None], axis=0))
        return list((projected * signs).T.reshape(-1, *maps.shape[2:]))

    @staticmethod
    def _resized(component: Array, image: Tensor) -> Array:
        rectified = torch.from_numpy(component)[None, None].to(image.device).clamp(min=0)
        size = image.shape[2:]
        resized: Array = F.interpolate(rectified, size, mode="bicubic", align_corners=False).squeeze().cpu().numpy()
        return resized

    def _scores(self, image: Tensor, ossms: list[Array], target: int) -> list[float]:
        """Target score ``(K,)`` of the image seen through each component over its blurred self."""
        pixels = image.squeeze(0).permute(1, 2, 0).cpu().numpy()
        blurred = np.zeros(pixels.shape)
        for channel in range(pixels.shape[2]):
            blurred[:, :, channel] = gaussian_filter(pixels[:, :, channel], _SIGMA, truncate=_TRUNCATE)
        masked = []
        for ossm in ossms:
            mask = _stretched(ossm)[:, :, None]
            masked.append(torch.tensor(np.maximum(pixels * mask, blurred * (1 - mask))).to(image.device))
        with torch.no_grad():
            scores = self.model(torch.stack(masked).permute(0, 3, 1, 2).to(torch.float32))[:, target]
        return [float(score) for score in scores.cpu().numpy()]


def _stretched(values: Array) -> Array:
    values = values - values.min()
    return values / values.max() if values.max() > 0 else values


def _scaled(values: Array) -> Array:
    values = values - values.min()
    scaled: Array = values / (_EPSILON + values.max())
    return scaled
