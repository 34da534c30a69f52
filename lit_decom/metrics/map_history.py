"""What stability is measured against: the maps and predictions of earlier snapshots."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from lit_decom.functional.base import check_option, has_order, scatter_rows
from lit_decom.functional.stability import Similarity, map_similarity

Reference = Literal["previous", "first_correct"]


class MapHistory:
    """What the explanations of the same images were like at earlier snapshots, by image id.

    It outlives the ``reset()`` of metrics: they only read it in ``update``, and whoever owns it calls :meth:`observe`
    with a batch after the metrics were updated with it. It holds two maps per image, on the CPU, and a few numbers,
    however many snapshots there were. Each process keeps the images that it explains.

    Args:
        similarity: how successive maps are compared to tell when a map settled.
        max_size: larger maps are averaged down to this many pixels on their longer side before any comparison, since
            they come from a grid of few positions and the history goes into every checkpoint; ``None`` keeps all.
        thresholds: for which least similarities :meth:`settled_since` is asked; where each series began is noted.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self, similarity: Similarity = "cosine", max_size: int | None = 56, thresholds: Sequence[float] = (0.9,)
    ) -> None:
        check_option("similarity", similarity, Similarity)
        if max_size is not None and max_size < 1:
            raise ValueError(f"Expected `max_size` to be at least 1, but got {max_size}.")
        self.similarity = similarity
        self.max_size = max_size
        self.thresholds = tuple(sorted(set(thresholds)))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._maps: dict[Reference, dict[str, Tensor]] = {"previous": {}, "first_correct": {}}
        self._predictions: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        # By threshold and image, the epoch of the first map of the series that goes on up to the last map.
        self._since: dict[float, dict[str, int]] = {threshold: {} for threshold in self.thresholds}

    def compare(
        self, maps: Tensor, ids: Sequence[str], reference: Reference = "previous", similarity: Similarity = "cosine"
    ) -> Tensor:
        """Compare maps with those of the same images at an earlier snapshot.

        Args:
            maps: maps ``(B, H, W)``.
            ids: the images' ids.
            reference: the snapshot before, or the first one at which the image was classified correctly.
            similarity: see :func:`lit_decom.functional.stability.map_similarity`.

        Returns:
            Similarities ``(B,)``, on the CPU; NaN where there is no earlier map, or no similarity is defined.

        Raises:
            ValueError: if ids are missing or repeated, the maps have another size than before, or an option is unknown.
        """
        check_option("reference", reference, Reference)
        _check_ids(ids, len(maps))
        earlier = self._maps[reference]
        known = torch.tensor([name in earlier for name in ids], dtype=torch.bool)
        if not known.any():
            return torch.full((len(maps),), torch.nan)
        others = torch.stack([earlier[name] for name in ids if name in earlier])
        return scatter_rows(map_similarity(self._reduced(maps)[known], others, similarity), known)

    def switched(self, logits: Tensor, ids: Sequence[str]) -> Tensor:
        """Tell where the prediction differs from that at the snapshot before.

        Args:
            logits: logits ``(B, N)``.
            ids: the images' ids.

        Returns:
            0 or 1 per image ``(B,)``, on the CPU; NaN where there is no earlier prediction or a logit is NaN.

        Raises:
            ValueError: if ids are missing or repeated.
        """
        _check_ids(ids, len(logits))
        before = torch.tensor([self._predictions.get(name, -1) for name in ids])
        now = _predictions(logits)
        return torch.where((before < 0) | (now < 0), torch.nan, (before != now).float())

    def settled_since(self, maps: Tensor, ids: Sequence[str], threshold: float) -> Tensor:
        """Tell since which epoch successive maps have been similar without a break, up to these maps.

        Args:
            maps: this snapshot's maps ``(B, H, W)``.
            ids: the images' ids.
            threshold: the least similarity.

        Returns:
            The epoch of the first map of the unbroken series ``(B,)``, on the CPU; NaN where these maps already broke
            it, or have no predecessor.

        Raises:
            ValueError: if ids are missing or repeated, the maps have another size than before, or the threshold is none
                of this history's.
        """
        if threshold not in self._since:
            raise ValueError(f"Expected `threshold` to be one of {self.thresholds}, but got {threshold}.")
        latest, begun = self.compare(maps, ids, "previous", self.similarity).tolist(), self._since[threshold]
        return torch.tensor(
            [
                begun.get(name, self._epochs[name]) if similarity >= threshold else torch.nan
                for name, similarity in zip(ids, latest, strict=True)
            ]
        )

    def observe(
        self, epoch: int, maps: Tensor, ids: Sequence[str], logits: Tensor, labels: Tensor | None = None
    ) -> None:
        """Remember this snapshot's maps and predictions of a batch.

        Args:
            epoch: the number that :meth:`settled_since` shall call this snapshot.
            maps: maps ``(B, H, W)``.
            ids: the images' ids.
            logits: logits ``(B, N)``.
            labels: true classes ``(B,)``; without them no map becomes the first correct one.

        Raises:
            ValueError: if ids are missing or repeated, or the maps have another size than before.
        """
        latest = self.compare(maps, ids, "previous", self.similarity).tolist()
        predictions = _predictions(logits)
        correct = torch.zeros(len(maps), dtype=torch.bool) if labels is None else predictions == labels.cpu()
        usable = correct & has_order(maps).cpu()
        # A tensor made in inference mode could not be used freely later, and a view would keep its batch alive.
        with torch.inference_mode(mode=False):
            reduced = [one.clone() for one in self._reduced(maps)]
        for row, name in enumerate(ids):
            for threshold, begun in self._since.items():
                if latest[row] >= threshold:
                    begun.setdefault(name, self._epochs[name])
                else:
                    begun.pop(name, None)
            self._maps["previous"][name] = reduced[row]
            if usable[row]:
                self._maps["first_correct"].setdefault(name, reduced[row])
            self._predictions[name] = int(predictions[row])
            self._epochs[name] = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return everything remembered, as tensors, strings and numbers."""
        ids = list(self._epochs)
        firsts = self._maps["first_correct"]
        return {
            "similarity": self.similarity,
            "max_size": self.max_size,
            "ids": ids,
            "epochs": torch.tensor([self._epochs[name] for name in ids], dtype=torch.long),
            "predictions": torch.tensor([self._predictions[name] for name in ids], dtype=torch.long),
            "previous": _stack([self._maps["previous"][name] for name in ids]),
            "first_correct_ids": list(firsts),
            "first_correct": _stack(list(firsts.values())),
            "thresholds": list(self.thresholds),
            "since": torch.tensor(
                [[begun.get(name, torch.nan) for name in ids] for begun in self._since.values()], dtype=torch.float64
            ),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget everything and take over what another history remembered.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            ValueError: if it was made under other settings.
        """
        self.clear()
        self.merge(state)

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another history remembered, that of another process for example; its images replace equal ids.

        Of a threshold that the other one did not follow, series begin at its last maps.

        Args:
            state: what :meth:`state_dict` returned.

        Raises:
            ValueError: if it was made under other settings.
        """
        if (state["similarity"], state["max_size"]) != (self.similarity, self.max_size):
            raise ValueError(
                f"Expected a state of {self!r}, but got one of MapHistory(similarity={state['similarity']!r}, "
                f"max_size={state['max_size']})."
            )
        ids: list[str] = state["ids"]
        for row, name in enumerate(ids):
            self._epochs[name] = int(state["epochs"][row])
            self._predictions[name] = int(state["predictions"][row])
            self._maps["previous"][name] = state["previous"][row].cpu().clone()
        followed = dict(zip(state.get("thresholds", ()), state.get("since", ()), strict=True))
        unknown = torch.full((len(ids),), torch.nan)
        for threshold, begun in self._since.items():
            for name, since in zip(ids, followed.get(threshold, unknown).tolist(), strict=True):
                begun.pop(name, None)
                if since == since:  # noqa: PLR0124 -- not NaN
                    begun[name] = int(since)
        for name, first in zip(state["first_correct_ids"], state["first_correct"], strict=True):
            self._maps["first_correct"][name] = first.cpu().clone()

    def __len__(self) -> int:
        return len(self._epochs)

    def __repr__(self) -> str:
        return f"MapHistory(similarity={self.similarity!r}, max_size={self.max_size})"

    def _reduced(self, maps: Tensor) -> Tensor:
        height, width = maps.shape[-2:]
        factor = 1.0 if self.max_size is None else self.max_size / max(height, width)
        maps = maps.detach().float()
        if factor < 1:
            maps = F.adaptive_avg_pool2d(maps, (max(1, round(height * factor)), max(1, round(width * factor))))
        return maps.cpu()


def _check_ids(ids: Sequence[str], count: int) -> None:
    if len(ids) != count or len(set(ids)) != count:
        raise ValueError(f"Expected `ids` to be {count} different ids, but got {len(ids)}, {len(set(ids))} different.")


def _predictions(logits: Tensor) -> Tensor:
    """Return the predicted classes ``(B,)``, on the CPU; -1 where a logit is NaN."""
    return logits.detach().argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1).cpu()


def _stack(maps: list[Tensor]) -> Tensor:
    return torch.stack(maps) if maps else torch.empty(0, 0, 0)
