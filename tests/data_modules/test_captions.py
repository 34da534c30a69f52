import re
from random import Random

import pytest
import torch

from lit_decom.data import Critters, CrittersDataModule
from lit_decom.data.captions import WORDS, caption
from lit_decom.data.drawing import Pose, cluttered
from lit_decom.data.figure import COLOURS, SPECIES, Traits, draw_critter


def test_captions_say_what_is_drawn_and_nothing_else():
    traits = Traits(SPECIES[0], "red", "spotted", "smiling", "thin")  # pointed ears, open eyes, a button nose
    said = {caption(traits, Random(seed)) for seed in range(400)}
    assert len(said) > 100
    for phrase in ("piko", "an animal", "red", "spotted", "pointed ears", "open eyes", "a button nose", "a smile"):
        assert any(phrase in text for text in said), phrase
    false = {"round", "sleepy", "snout", "bushy", "pompon", "striped", "muko", "pikonk", "blue"}
    assert not false & {word for text in said for word in text.split()}


def test_every_word_of_every_caption_is_in_the_vocabulary_and_every_word_occurs():
    data = Critters(64, 32, captions=True)
    said = [caption(data.draw(i).traits, Random(f"{i}/{seed}")) for i in range(64) for seed in range(8)]
    words = {word for text in said for word in re.findall(r"[a-z]+", text)}
    assert words <= set(WORDS)
    assert set(WORDS) - words <= set(COLOURS), "colours are rare"


def test_every_sample_has_its_caption_and_nothing_else_changes():
    plain, told = Critters(8, 32, stream="val"), Critters(8, 32, stream="val", captions=True, annotations=False)
    for index in range(8):
        (image, target), (same, short) = plain[index], told[index]
        assert torch.equal(image, same)
        assert "caption" not in target
        assert set(short) == {"label", "caption"}
        assert short["caption"] == told[index - 8][1]["caption"], "the same at every reading"
        traits = told.draw(index).traits
        assert traits.species is SPECIES[short["label"]]
        named = set(short["caption"].split()) & {species.name for species in SPECIES}
        assert named <= {traits.species.name}


def test_the_loaders_give_texts_in_every_split():
    data = CrittersDataModule(8, 8, 8, 32, captions=True, batch_size=4)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        _, target = next(iter(loader))
        assert len(target["caption"]) == len(target["label"]) == 4
        assert all(isinstance(text, str) for text in target["caption"])


@pytest.mark.parametrize("hue", [0.0, 0.35, 0.67, 0.999])
def test_the_colour_is_that_of_the_fur(monkeypatch, hue):
    class Given(Random):
        first = True

        def random(self):
            value, self.first = (hue if self.first else super().random()), False
            return value

    canvas = cluttered(Random(0), 32)
    traits = draw_critter(canvas, Given(1), SPECIES[0], Pose(16, 16, 12))
    distance = abs(COLOURS.index(traits.colour) / len(COLOURS) - hue) % 1
    assert min(distance, 1 - distance) <= 0.5 / len(COLOURS) + 1e-9
