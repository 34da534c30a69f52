import pytest
import torch
from torch.nn import functional as F

from lit_decom.models import ImageTextModel, ZeroShotClassifier
from lit_decom.models.image_text import WordTokenizer
from lit_decom.models.prompts import prompt_embeddings
from tests.helpers.networks import noise_images

WORDS = ["a", "cat", "dog", "photo"]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ImageTextModel(WORDS, 8, width=8, n_stages=2, text_width=16, text_blocks=1, length=6).eval()


def test_words_become_numbers_whatever_stands_between_them():
    tokenizer = WordTokenizer(WORDS, 5)
    assert tokenizer(["A photo: a dog!"]).tolist() == [[1, 4, 1, 3, 0]]


@pytest.mark.parametrize(
    ("text", "told"), [("a bird", "but got 'bird'"), ("", "1 to 5 words, but got 0"), ("a " * 6, "but got 6")]
)
def test_texts_that_cannot_be_read_are_refused(text, told):
    with pytest.raises(ValueError, match=told):
        WordTokenizer(WORDS, 5)([text])


def test_an_embedding_depends_on_words_and_their_order_and_not_on_the_padding(model):
    short, other, long = model.encode_texts(["a cat", "cat a", "a photo a cat a dog"])
    torch.testing.assert_close(model.encode_texts(["a cat"])[0], short, atol=1e-6, rtol=1e-5)
    assert (short - other).abs().max() > 1e-3
    assert (short - long).abs().max() > 1e-3
    # whatever stands in the embedding of the padding, it is not read
    with torch.no_grad():
        model.text_encoder.words.weight[0] = 100.0
    torch.testing.assert_close(model.encode_texts(["a cat"])[0], short, atol=1e-6, rtol=1e-5)


def test_logits_are_scaled_cosines(model):
    images = noise_images(3)
    texts = ["a cat", "a dog"]
    cosines = F.cosine_similarity(model.image_encoder(images)[:, None], model.encode_texts(texts)[None], dim=2)
    torch.testing.assert_close(model(images, texts), cosines / 0.07)


def test_as_a_classifier_it_compares_with_the_ensemble_of_prompts(model):
    templates, names = ["a photo a {}", "a {}"], ["cat", "dog"]
    one_by_one = [[F.normalize(model.encode_texts([t.format(n)])[0], dim=0) for t in templates] for n in names]
    classes = torch.stack([F.normalize(sum(each) / 2, dim=0) for each in one_by_one])
    torch.testing.assert_close(prompt_embeddings(model.encode_texts, names, templates), classes)
    images = noise_images(3)
    classifier = ZeroShotClassifier.from_image_text(model, names, templates)
    expected = F.normalize(model.image_encoder(images), dim=1) @ classes.T / 0.07
    torch.testing.assert_close(classifier(images), expected)


@pytest.mark.parametrize(
    ("names", "templates", "told"),
    [
        ("cat", ["{}"], "`class_names` to be a list of names, but got 'cat'"),
        ([], ["{}"], "`class_names`"),
        (["cat"], "a {}", "`templates` to be a list of texts"),
        (["cat"], ["a photo"], "with '{}' in each"),
        (["cat"], [], "`templates`"),
    ],
)
def test_names_and_templates_that_make_no_prompts_are_refused(model, names, templates, told):
    with pytest.raises(ValueError, match=told):
        prompt_embeddings(model.encode_texts, names, templates)
