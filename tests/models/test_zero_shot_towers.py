"""Real architectures of open_clip and transformers, small and with seeded weights, against their own logits."""

import sys

import open_clip
import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from lit_decom import DecomCAM, ZeroShotClassifier, capture
from tests.helpers.networks import noise_images

NAMES = ["cat", "dog", "blue bird"]
TEMPLATES = ["a photo of a {}.", "a drawing of a {}"]
TEXT = {"context_length": 16, "vocab_size": 200, "width": 32, "heads": 2, "layers": 2}
VIT = {"layers": 2, "width": 32, "patch_size": 8, "image_size": 64, "head_width": 16}
RESNET = {"layers": (1, 1, 1, 1), "width": 8, "image_size": 64, "head_width": 16}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


def letters(texts, length=16):
    """A tokenizer as open_clip's: letters between a first and a last token, which has the largest number."""
    tokens = torch.zeros(len(texts), length, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        numbers = [198, *(ord(letter) % 128 + 1 for letter in text[: length - 2]), 199]
        row[: len(numbers)] = torch.tensor(numbers)
    return tokens


class HuggingFaceLetters:
    """The same as transformers' tokenizers are called; its own attention mask is told, as some do."""

    def __call__(self, texts, *, padding, max_length, truncation, return_tensors):
        assert (padding, truncation, return_tensors) == ("max_length", True, "pt")
        tokens = letters(texts, max_length)
        return {"input_ids": tokens, "attention_mask": (tokens > 0).long()}


def open_clip_model(kind):
    torch.manual_seed(0)
    if kind == "vit":
        model = open_clip.CLIP(16, VIT, TEXT)
    elif kind == "resnet":
        model = open_clip.CLIP(16, RESNET, TEXT)
    elif kind == "timm":
        vision = {
            "timm_model_name": "resnet10t",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
        }
        model = open_clip.CustomTextCLIP(16, vision | {"timm_pool": "avg", "image_size": 64}, TEXT)
    elif kind == "siglip":
        model = open_clip.CustomTextCLIP(16, VIT, TEXT, init_logit_scale=1.5, init_logit_bias=-10.0)
    else:
        coca = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
        decoder = {"context_length": 16, "vocab_size": 200, "width": 16, "heads": 2, "layers": 1}
        text = TEXT | {"embed_cls": True, "output_tokens": True}
        model = open_clip.CoCa(16, decoder, text, VIT | coca)
    return model.eval()


def hugging_face_model(kind):
    torch.manual_seed(0)
    text = SMALL | {"vocab_size": 200, "max_position_embeddings": 16}
    special = {"bos_token_id": 198, "eos_token_id": 199, "pad_token_id": 0}
    vision = SMALL | {"image_size": 64, "patch_size": 8}
    if kind == "clip":
        return CLIPModel(CLIPConfig(text_config=text | special, vision_config=vision, projection_dim=16)).eval()
    model = SiglipModel(SiglipConfig(text_config=text | special | {"projection_size": 32}, vision_config=vision)).eval()
    with torch.no_grad():
        model.logit_scale.fill_(1.5)
        model.logit_bias.fill_(-10.0)
    return model


@pytest.mark.parametrize("kind", ["vit", "resnet", "timm", "siglip", "coca"])
def test_logits_are_those_of_open_clip(kind):
    model, images = open_clip_model(kind), noise_images(3, 64)
    found = ZeroShotClassifier.from_open_clip(model, NAMES, ["a {}"], tokenizer=letters)(images)
    with torch.no_grad():
        pictures = model.encode_image(images, normalize=True)
        texts = model.encode_text(letters([f"a {name}" for name in NAMES]), normalize=True)
        expected = model.logit_scale.exp() * pictures @ texts.T
        expected = expected if model.logit_bias is None else expected + model.logit_bias
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.std(dim=0).min() > 1e-3, "the images differ"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_logits_are_those_of_transformers(kind):
    model, images = hugging_face_model(kind), noise_images(3, 64)
    found = ZeroShotClassifier.from_hugging_face(model, NAMES, ["a {}"], processor=HuggingFaceLetters())(images)
    tokens = letters([f"a {name}" for name in NAMES])
    mask = {} if kind == "siglip" else {"attention_mask": (tokens > 0).long()}
    with torch.no_grad():
        expected = model(input_ids=tokens, pixel_values=images, **mask).logits_per_image
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_templates_are_ensembled_as_clip_does_it():
    model = open_clip_model("vit")
    with torch.no_grad():
        every = [F.normalize(model.encode_text(letters([t.format(n) for t in TEMPLATES])), dim=1) for n in NAMES]
    expected = F.normalize(torch.stack([each.mean(dim=0) for each in every]), dim=1)
    classifier = ZeroShotClassifier.from_open_clip(model, NAMES, TEMPLATES, tokenizer=letters)
    torch.testing.assert_close(classifier.class_embeddings, expected)
    built_in = open_clip.build_zero_shot_classifier(
        model, letters, NAMES, [lambda n, t=t: t.format(n) for t in TEMPLATES]
    )
    torch.testing.assert_close(classifier.class_embeddings, built_in.T)


def test_a_background_is_taken_off_every_class_and_changes_no_probability():
    model, images = open_clip_model("siglip"), noise_images(3, 64)
    plain = ZeroShotClassifier.from_open_clip(model, NAMES, ["{}"], tokenizer=letters)
    behind = ["a photo", "an animal"]
    against = ZeroShotClassifier.from_open_clip(model, NAMES, ["{}"], background=behind, tokenizer=letters)
    common = ZeroShotClassifier.from_open_clip(model, behind, ["{}"], tokenizer=letters)(images)
    torch.testing.assert_close(against(images), plain(images) - common.mean(dim=1, keepdim=True))
    torch.testing.assert_close(against(images).softmax(1), plain(images).softmax(1))
    itself = ZeroShotClassifier.from_open_clip(model, ["a cat"], ["{}"], background=["a cat"], tokenizer=letters)
    torch.testing.assert_close(itself(images), torch.zeros(3, 1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("background", [(), ("a photo",)])
def test_a_linear_head_begins_as_the_prompts(background):
    model, images = open_clip_model("coca"), noise_images(3, 64)
    classifier = ZeroShotClassifier.from_open_clip(model, NAMES, background=background, tokenizer=letters)
    classifier.logit_bias = -3.0
    network = classifier.with_linear_head()
    torch.testing.assert_close(network(images), classifier(images), rtol=1e-4, atol=1e-4)
    assert network.image_encoder is model.visual
    assert [name for name, _ in network.named_parameters() if not name.startswith("image_encoder")] == [
        "head.weight",
        "head.bias",
    ]


def test_the_text_tower_is_read_in_evaluation_mode_and_left_as_it_was():
    model = hugging_face_model("clip")
    model.text_model.config.attention_dropout = 0.5
    for module in model.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    still = ZeroShotClassifier.from_hugging_face(model, NAMES, processor=HuggingFaceLetters()).class_embeddings
    model.train()
    model.text_model.final_layer_norm.eval()
    again = ZeroShotClassifier.from_hugging_face(model, NAMES, processor=HuggingFaceLetters()).class_embeddings
    assert torch.equal(still, again)
    assert not again.requires_grad
    assert model.text_model.training
    assert not model.text_model.final_layer_norm.training


def test_many_prompts_are_read_a_few_at_a_time():
    model, most = open_clip_model("vit"), []

    def counting(texts):
        most.append(len(texts))
        return letters(texts)

    names = [f"number {n}" for n in range(150)]
    classifier = ZeroShotClassifier.from_open_clip(model, names, TEMPLATES, tokenizer=counting)
    assert sum(most) == 300
    assert max(most) <= 256
    few = ZeroShotClassifier.from_open_clip(model, names[140:], TEMPLATES, tokenizer=letters)
    torch.testing.assert_close(classifier.class_embeddings[140:], few.class_embeddings)


@pytest.mark.parametrize(("kind", "layer"), [("vit", "transformer.resblocks.0"), ("resnet", "layer3")])
def test_a_tower_is_explained_for_a_prompt(kind, layer):
    classifier = ZeroShotClassifier.from_open_clip(open_clip_model(kind), NAMES, tokenizer=letters)
    evidence = capture(classifier, f"image_encoder.{layer}", noise_images(2, 64), torch.tensor([0, 2]))
    found = DecomCAM(n_components=2).decompose(evidence)
    assert found.scores.isfinite().all()
    assert evidence.gradients.abs().amax(dim=(1, 2, 3)).min() > 0


class TestLoading:
    @pytest.fixture
    def tiny(self, monkeypatch):
        """An architecture of open_clip's own kind of configuration, small enough for a test."""
        config = {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT | {"vocab_size": 49408}}
        monkeypatch.setitem(sys.modules["open_clip.factory"]._MODEL_CONFIGS, "tiny", config)
        return "tiny"

    def test_open_clip_reads_a_file_of_weights_by_name(self, tiny, tmp_path):
        torch.manual_seed(1)
        model = open_clip.create_model(tiny)
        torch.save(model.state_dict(), tmp_path / "weights.pt")
        found = ZeroShotClassifier.from_open_clip(tiny, NAMES, pretrained=str(tmp_path / "weights.pt"))
        expected = ZeroShotClassifier.from_open_clip(model, NAMES, tokenizer=open_clip.get_tokenizer(tiny))
        images = noise_images(2, 64)
        torch.testing.assert_close(found(images), expected(images))
        assert found.mean == open_clip.OPENAI_DATASET_MEAN
        assert found.std == open_clip.OPENAI_DATASET_STD

    def test_transformers_reads_a_folder(self, tmp_path):
        model = hugging_face_model("clip")
        model.save_pretrained(tmp_path)
        vocabulary = {letter: number for number, letter in enumerate("abcdefghijklmnopqrstuvwxyz")}
        vocabulary |= {f"{letter}</w>": 26 + number for letter, number in vocabulary.items()}
        vocabulary |= {"<|startoftext|>": 198, "<|endoftext|>": 199}
        tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
        processor = transformers.CLIPProcessor(transformers.CLIPImageProcessor(), tokenizer)
        processor.save_pretrained(tmp_path)
        found = ZeroShotClassifier.from_hugging_face(str(tmp_path), NAMES)
        expected = ZeroShotClassifier.from_hugging_face(model, NAMES, processor=tokenizer)
        images = noise_images(2, 64)
        torch.testing.assert_close(found(images), expected(images))
        assert found.mean == pytest.approx(open_clip.OPENAI_DATASET_MEAN, abs=1e-6)
        assert expected.mean is None

    def test_without_a_network_open_clip_says_what_to_do(self, monkeypatch):
        def refuse(*_, **__):
            raise OSError("no route to host")

        monkeypatch.setattr("open_clip.factory.download_pretrained", refuse)
        with pytest.raises(
            OSError, match=r"(?s)weights 'openai' of open_clip's 'RN50'.*no route.*`pretrained=` the path"
        ):
            ZeroShotClassifier.from_open_clip("RN50", NAMES, pretrained="openai")

    def test_an_unknown_tag_lists_the_known_ones(self, tiny):
        with pytest.raises(OSError, match=r"(?s)not a known tag.*Known tags: \['openai', 'yfcc15m', 'cc12m'"):
            ZeroShotClassifier.from_open_clip("RN50", NAMES, pretrained="imagenet")

    def test_without_a_network_transformers_says_what_to_do(self, monkeypatch):
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match=r"(?s)transformers' model 'nobody/nothing'.*hf download nobody/nothing"):
            ZeroShotClassifier.from_hugging_face("nobody/nothing", NAMES)

    @pytest.mark.parametrize("make", [ZeroShotClassifier.from_open_clip, ZeroShotClassifier.from_hugging_face])
    def test_a_missing_package_names_the_extra(self, monkeypatch, make):
        monkeypatch.setitem(sys.modules, "open_clip", None)
        monkeypatch.setitem(sys.modules, "transformers", None)
        with pytest.raises(ModuleNotFoundError, match=r"pip install 'lit-decom\[clip\]'"):
            make("ViT-B-32", NAMES)

    def test_an_unknown_model_lists_the_known_ones(self):
        with pytest.raises(ValueError, match=r"one of .*ViT-B-32, .*but got 'ViT-B-33'"):
            ZeroShotClassifier.from_open_clip("ViT-B-33", NAMES)

    def test_a_model_without_its_tokenizer_is_refused(self):
        with pytest.raises(ValueError, match="Expected `tokenizer` for a model that is not a name"):
            ZeroShotClassifier.from_open_clip(open_clip_model("vit"), NAMES)
        with pytest.raises(ValueError, match="`processor`"):
            ZeroShotClassifier.from_hugging_face(hugging_face_model("clip"), NAMES)
        with pytest.raises(
            ValueError, match="`pretrained` to be None for a model that is not a name, but got 'openai'"
        ):
            ZeroShotClassifier.from_open_clip(open_clip_model("vit"), NAMES, pretrained="openai", tokenizer=letters)

    def test_another_kind_of_model_is_refused(self):
        with pytest.raises(TypeError, match=r"Linear has no vision_model, get_text_features, logit_scale"):
            ZeroShotClassifier.from_hugging_face(torch.nn.Linear(2, 2), NAMES, processor=HuggingFaceLetters())
