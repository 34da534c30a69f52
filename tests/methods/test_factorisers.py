"""DecomCAM with components that are not singular vectors."""

import dataclasses

import pytest
import torch

from lit_decom import DecomCAM, capture
from lit_decom.explainer import summary
from lit_decom.functional.decomposition import Factors, decompose
from lit_decom.functional.factorisation import FACTORISERS
from tests.helpers.networks import Patches, SmallCNN, noise_images, seeded

NMF = DecomCAM(n_components=4, decomposition="nmf")


def evidence_of(images=None, **options):
    return capture(seeded(SmallCNN()), "stage2", noise_images() if images is None else images, "predicted", **options)


def test_singular_vectors_are_the_default_and_have_signs():
    svd = DecomCAM(n_components=4).decompose(evidence_of())
    assert svd.signed
    assert svd.orthogonal
    assert torch.equal(svd.strengths, svd.singular_values)
    assert torch.equal(svd.removed, svd.strengths.square())
    named = DecomCAM(n_components=4, decomposition="svd").decompose(evidence_of())
    assert all(torch.equal(getattr(svd, entry.name), getattr(named, entry.name)) for entry in dataclasses.fields(named))


def test_nmf_has_no_negative_part_and_is_not_orthogonal_and_says_so():
    found = NMF.decompose(evidence_of())
    assert found.valid.all()
    assert not found.signed
    assert not found.orthogonal
    assert torch.equal(found.ossms, found.components), "nothing is rectified away"
    assert (found.loadings >= 0).all()
    svd = DecomCAM(n_components=4).decompose(evidence_of())
    assert torch.equal(found.energy, svd.energy)
    shares, best = found.explained_energy.sum(dim=1), svd.explained_energy.sum(dim=1)
    assert ((shares < best) & (shares > 0.9 * best)).all()


def test_components_of_an_image_that_is_not_finite_say_nothing_of_the_others():
    images = noise_images()
    images[1] = torch.nan
    found = NMF.decompose(evidence_of(images))
    assert found.removed[1].isnan().all()
    assert not found.signed
    assert DecomCAM(n_components=4).decompose(evidence_of(images)).orthogonal


def test_components_known_on_paper():
    # Red at one place, green at two, and one place where both are: the pure places are the components.
    picture = torch.zeros(1, 3, 8, 8)
    picture[0, 0, 0:2, 0:2], picture[0, 1, 2:4, 4:8] = 1.0, 0.5
    picture[0, :2, 6:8, 0:2] = torch.tensor([0.5, 0.25])[:, None, None]
    evidence = capture(Patches([[2.0, 1.0, -3.0], [0.0, 0.0, 0.0]]), "colours", picture, 0)
    found = DecomCAM(n_components=2, decomposition="nmf").decompose(evidence)
    red, green = torch.zeros(4, 4), torch.zeros(4, 4)
    red[0, 0], red[3, 0], green[1, 2:], green[3, 0] = 2.0, 1.0, 0.5, 0.25
    torch.testing.assert_close(found.components[0], torch.stack([red, green]), rtol=0, atol=1e-4)
    assert found.channels[0, :2].tolist() == [0, 1]
    assert found.explained_energy[0].tolist() == pytest.approx([5 / 5.5625, 0.5625 / 5.5625], abs=1e-4)


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_any_chunk_size_and_any_batch_give_the_same_numbers(chunk_size):
    images = noise_images(5)
    together = NMF.decompose(evidence_of(images, chunk_size=10))
    parts = [NMF.decompose(evidence_of(images[row : row + 1], chunk_size=chunk_size)) for row in range(5)]
    for name in ("components", "strengths", "loadings", "removed", "scores"):
        joined, expected = torch.cat([getattr(part, name) for part in parts]), getattr(together, name)
        # what float32 loses in the network when sums are taken in another order
        torch.testing.assert_close(joined, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_a_fraction_keeps_as_many_as_explain_it():
    every = DecomCAM(n_components=12, decomposition="nmf").decompose(evidence_of())
    found = DecomCAM(n_components=0.8, max_components=12, decomposition="nmf").decompose(evidence_of())
    shares = every.explained_energy.cumsum(dim=1)
    for image in range(4):
        kept = int(found.valid[image].sum())
        assert 1 < kept < 12
        assert shares[image, kept - 2] < 0.8 <= shares[image, kept - 1]
        assert not found.removed[image, kept:].any()


def test_the_summary_counts_what_each_adds():
    found = NMF.decompose(evidence_of())
    numbers = summary(found)
    assert numbers["explained_energy/rank_01"] == pytest.approx(found.explained_energy[:, 0].mean().item())
    assert numbers["valid_components"] == 4.0


def test_another_idea_is_a_function_and_a_line(monkeypatch):
    def strongest_channels(maps, n_components) -> Factors:
        found = decompose(maps, n_components)
        return found._replace(components=maps[:, :n_components], loadings=found.loadings.abs())

    monkeypatch.setitem(FACTORISERS, "channels", strongest_channels)
    found = DecomCAM(n_components=3, decomposition="channels").decompose(evidence_of())
    assert found.components.shape == (4, 3, 8, 8)
    assert not found.orthogonal


# ----- beginning where the snapshot before ended


def test_a_warm_start_goes_on_in_place_and_without_a_start_there_is_none():
    warm = dataclasses.replace(NMF, warm_start=True)
    evidence = evidence_of()
    first = warm.decompose(evidence)
    assert torch.equal(first.components, NMF.decompose(evidence).components)
    turned = first.components.flip(1)
    again = warm.decompose(evidence, list(turned))
    cosines = torch.nn.functional.cosine_similarity(again.components.flatten(2), turned.flatten(2), dim=2)
    assert (cosines > 0.85).all()
    assert torch.equal(NMF.decompose(evidence, list(turned)).components, first.components), "it was not asked for"


def test_a_start_may_have_more_components_or_less_or_none():
    warm = dataclasses.replace(NMF, warm_start=True)
    evidence = evidence_of()
    first = warm.decompose(evidence).components
    six = DecomCAM(n_components=6, decomposition="nmf").decompose(evidence).components
    found = warm.decompose(evidence, [first[0, :2], torch.empty(0), six[2], first[3]])
    assert found.valid.all()
    torch.testing.assert_close(found.components[1], first[1])
    cosines = torch.nn.functional.cosine_similarity(found.components[0, :2].flatten(1), first[0, :2].flatten(1), dim=1)
    assert (cosines > 0.9).all()


# ----- settings


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"decomposition": "ica"}, r"Expected `decomposition` to be one of \['nmf', 'svd'\], but got 'ica'"),
        ({"decomposition": "nmf", "integration": "v25"}, r"Expected `centred` to be False, since 'nmf' takes.*'v25'"),
        ({"decomposition": "nmf", "centred": True}, r"Expected `centred` to be False.*but got True"),
        ({"warm_start": True}, r"Expected `decomposition` to be one of \['nmf'\] for a `warm_start`, but got 'svd'"),
    ],
)
def test_what_a_factoriser_cannot_do_is_refused_when_it_is_asked_for(setting, message):
    with pytest.raises(ValueError, match=message):
        DecomCAM(**setting)


def test_the_name_is_in_the_caption():
    assert repr(NMF) == "DecomCAM(n_components=4, integration='paper', decomposition='nmf')"
    assert eval(repr(NMF)) == NMF
    DecomCAM(decomposition="nmf", integration="v25", centred=False)
