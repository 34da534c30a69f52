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
    with a batch after the metrics were updated with it. It holds two maps per image, on the CPU, and two numbers per
    image and snapshot. Each process keeps the images that it explains.

    Args:
        similarity: how successive maps are compared to tell when a map settled.
        max_size: larger maps are averaged down to this many pixels on their longer side before any comparison, since
            they come from a grid of few positions and the history goes into every checkpoint; ``None`` keeps all.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(self, similarity: Similarity = "cosine", max_size: int | None = 56) -> None:
        check_option("similarity", similarity, Similarity)
        if max_size is not None and max_size < 1:
            raise ValueError(f"Expected `max_size` to be at least 1, but got {max_size}.")
        self.similarity = similarity
        self.max_size = max_size
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._maps: dict[Reference, dict[str, Tensor]] = {"previous": {}, "first_correct": {}}
        self._predictions: dict[str, int] = {}
        self._epochs: dict[str, int] = {}
        self._successions: dict[str, list[tuple[int, float]]] = {}

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
            ValueError: if ids are missing or repeated, or the maps have another size than before.
        """
        latest = self.compare(maps, ids, "previous", self.similarity)
        since = torch.full((len(maps),), torch.nan)
        for row, name in enumerate(ids):
            successions = [*self._successions.get(name, []), (self._epochs.get(name, 0), float(latest[row]))]
            for epoch, similarity in reversed(successions):
                if not similarity >= threshold:
                    break
                since[row] = epoch
        return since

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
        latest = self.compare(maps, ids, "previous", self.similarity)
        predictions = _predictions(logits)
        correct = torch.zeros(len(maps), dtype=torch.bool) if labels is None else predictions == labels.cpu()
        usable = correct & has_order(maps).cpu()
        # A tensor made in inference mode could not be used freely later, and a view would keep its batch alive.
        with torch.inference_mode(mode=False):
            reduced = [one.clone() for one in self._reduced(maps)]
        for row, name in enumerate(ids):
            if name in self._epochs:
                self._successions[name].append((self._epochs[name], float(latest[row])))
            else:
                self._successions[name] = []
            self._maps["previous"][name] = reduced[row]
            if usable[row]:
                self._maps["first_correct"].setdefault(name, reduced[row])
            self._predictions[name] = int(predictions[row])
            self._epochs[name] = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return everything remembered, as tensors, strings and numbers."""
        ids = list(self._epochs)
        firsts = self._maps["first_correct"]
        successions = [pair for name in ids for pair in self._successions[name]]
        return {
            "similarity": self.similarity,
            "max_size": self.max_size,
            "ids": ids,
            "epochs": torch.tensor([self._epochs[name] for name in ids], dtype=torch.long),
            "predictions": torch.tensor([self._predictions[name] for name in ids], dtype=torch.long),
            "previous": _stack([self._maps["previous"][name] for name in ids]),
            "first_correct_ids": list(firsts),
            "first_correct": _stack(list(firsts.values())),
            "succession_counts": torch.tensor([len(self._successions[name]) for name in ids], dtype=torch.long),
            "succession_epochs": torch.tensor([epoch for epoch, _ in successions], dtype=torch.long),
            "succession_similarities": torch.tensor([value for _, value in successions], dtype=torch.float64),
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
        pairs = list(zip(state["succession_epochs"].tolist(), state["succession_similarities"].tolist(), strict=True))
        ends = state["succession_counts"].cumsum(0).tolist()
        for row, (name, start, end) in enumerate(zip(ids, [0, *ends], ends, strict=False)):
            self._epochs[name] = int(state["epochs"][row])
            self._predictions[name] = int(state["predictions"][row])
            self._maps["previous"][name] = state["previous"][row].cpu().clone()
            self._successions[name] = pairs[start:end]
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
