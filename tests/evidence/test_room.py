"""Parts that do not fit in memory are halved: the numbers are those of smaller parts asked for, said once."""

import gc
import re
import warnings
import weakref

import pytest
import torch
from torch import nn

from lit_decom import DecomCAM, capture
from lit_decom.evidence import Room, class_gradients, score_gradients
from lit_decom.explainer import Explainer
from lit_decom.methods import AblationCAM, ScoreCAM
from lit_decom.probe import Probe
from tests.helpers.networks import SmallCNN, noise_images, seeded

CUDA = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
CPU = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
)


# Not in the network, whose attributes are put back.
_TRIED: list[int] = []


class Cramped(nn.Module):
    """A network for which a number of images at once are too many, and which notes in `tried` how many it was given."""

    def __init__(self, most: int, error: RuntimeError = CUDA) -> None:
        super().__init__()
        self.inner = SmallCNN()
        self.most, self.error = most, error
        _TRIED.clear()

    @property
    def tried(self):
        return _TRIED

    def forward(self, images):
        _TRIED.append(len(images))
        if len(images) > self.most:
            raise self.error
        return self.inner(images)


def evidence_of(most=1000, n=4, **options):
    """A capture of a network with room for any number of images, which is short of memory from then on."""
    network = seeded(Cramped(1000))
    found = capture(network, "inner.stage2", noise_images(n), "predicted", **options)
    network.most = most
    network.tried.clear()
    return found


def pieces(network, n=6, **options):
    images = noise_images(n)
    probe = Probe.from_tensors(images, torch.zeros(n, dtype=torch.long))
    explainer = Explainer(DecomCAM(n_components=3), "inner.stage2", "predicted", **options)
    return list(explainer.pieces(seeded(network), probe))


def rescored(evidence):
    rows = torch.arange(4).repeat_interleave(5)
    brighter = torch.linspace(0.5, 1.5, 20)[:, None, None, None]
    return evidence.rescore(rows, lambda part: evidence.images[rows[part]] * brighter[part])


def differentiated(evidence):
    rows, variables = torch.arange(4).repeat_interleave(5), torch.linspace(0.5, 1.5, 20)[:, None]
    return score_gradients(
        evidence, rows, variables, lambda own, part: evidence.images[rows[part]] * own[:, :, None, None]
    )


def again(evidence, targets):
    found = evidence.again(evidence.images.flip(3), targets)
    rows = torch.tensor([3, 0, 2])
    return found.logits, found.activations, found.gradients, found.targets, found.score(found.logits[rows], rows)


PASSES = {
    "altered images": rescored,
    "scores of components": lambda evidence: DecomCAM(n_components=3).decompose(evidence).contributions,
    "Score-CAM": ScoreCAM(top_k=6),
    "altered activations": AblationCAM(),
    "gradients of altered images": differentiated,
    "products": lambda evidence: class_gradients(evidence, torch.tensor([[0, 1], [2, 3], [1, 4], [3, 0]])),
    "again": lambda evidence: again(evidence, None),
    "again, a class each": lambda evidence: again(evidence, torch.tensor([1, 4, 0, 2])),
    "again, one class": lambda evidence: again(evidence, 2),
    "again, what is predicted": lambda evidence: again(evidence, "contrast"),
    "again, a score": lambda evidence: again(evidence, lambda logits, rows: logits[:, 0] * (1 + rows)),
}


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("error", [CUDA, CPU])
def test_what_does_not_fit_is_halved_and_gives_the_same(name, error):
    run, evidence = PASSES[name], evidence_of(most=3)
    evidence.model.error = error
    with pytest.warns(UserWarning, match="at most [23] go through the network together") as said:
        found = run(evidence)
    assert len(said) == 1
    assert max(evidence.model.tried) > 3
    torch.testing.assert_close(found, run(evidence_of()), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:There was not enough memory")
def test_a_label_stays_that_of_its_image():
    asked = torch.tensor([4, 0, 2, 2])
    found = again(evidence_of(3, asked=asked), None), again(evidence_of(3, asked=asked), "predicted")
    plain = again(evidence_of(asked=asked), None), again(evidence_of(asked=asked), "predicted")
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)


def test_numbers_are_to_the_bit_those_of_the_smaller_size():
    evidence = evidence_of(most=5, chunk_size=20)
    with pytest.warns(UserWarning, match="at most 5 go through"):
        found = rescored(evidence)
    assert evidence.model.tried == [20, 10, 5, 5, 5, 5]
    assert torch.equal(found, rescored(evidence_of(chunk_size=5)))


def test_the_smaller_size_is_remembered_and_said_once():
    evidence = evidence_of(most=6, chunk_size=20)
    with pytest.warns(UserWarning, match="at most 5 go through"):
        rescored(evidence)
    evidence.model.tried.clear()
    rescored(evidence)
    assert evidence.model.tried == [5] * 4
    evidence.model.most = 3
    rescored(evidence)
    assert evidence.model.tried[4:] == [5] + [2] * 10


def test_the_first_capture_is_halved_too_and_everything_after_it_knows():
    network = Cramped(2)
    with pytest.warns(UserWarning, match="at most 1 go through|at most 2 go through") as said:
        found = pieces(network, chunk_size=8, batch_size=6)
    assert len(said) == 1
    assert network.tried[:3] == [6, 3, 1]
    assert max(network.tried[3:]) == 1
    assert [len(piece.probe) for piece in found] == [1] * 6
    assert [piece.probe.ids for piece in found] == [piece.probe.ids for piece in pieces(Cramped(99), batch_size=1)]
    whole = pieces(Cramped(99), batch_size=6)[0].decomposition
    ours = torch.cat([piece.decomposition.contributions for piece in found])
    torch.testing.assert_close(ours, whole.contributions, rtol=1e-4, atol=1e-5)


def test_passes_that_keep_less_get_room_by_a_smaller_batch():
    # Beside the evidence of four images there is room for none, beside that of two for one.
    def work(part):
        def altered(_part):
            if part.stop - part.start > 2:
                raise CUDA

        list(room.over(3, 3, altered))
        return part

    room = Room()
    with pytest.warns(UserWarning, match="at most 1 go through"):
        assert [part.stop for part in room.over(4, 4, work)] == [1, 2, 3, 4]


@pytest.mark.parametrize("error", [CUDA, CPU])
def test_where_one_image_does_not_fit_the_error_says_what_can_be_done(error):
    network = Cramped(0, error)
    with pytest.raises(torch.OutOfMemoryError, match=re.escape(str(error)) + ".*`batch_size`") as raised:
        pieces(network)
    assert raised.value.__cause__ is error


def test_other_errors_are_raised_as_they_are():
    evidence = evidence_of(most=3)
    evidence.model.error = RuntimeError("the network is broken")
    with pytest.raises(RuntimeError, match=r"^the network is broken$"):
        rescored(evidence)
    assert evidence.model.tried == [20]


def test_bfloat16_is_not_given_up_for_want_of_memory():
    evidence, rows = evidence_of(most=3), torch.arange(4)
    with pytest.warns(UserWarning, match="at most 2 go through"):
        evidence.rescore(rows, lambda part: evidence.images[part], "bfloat16")
    assert evidence.model.tried == [4, 2, 2]


def test_what_filled_the_memory_is_free_when_it_is_tried_again():
    held, alive = [], []

    def work(part):
        gc.disable()  # no collection by chance: what is freed is freed because nobody holds it
        alive.append(sum(one() is not None for one in held))
        large = torch.empty(8)
        held.append(weakref.ref(large))
        if part.stop - part.start > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return 0

    try:
        with warnings.catch_warnings(action="ignore"):
            list(Room().over(4, 4, work))
    finally:
        gc.enable()
    assert alive == [0] * 6
