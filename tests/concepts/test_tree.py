import re

import pytest
import yaml

from lit_decom.concepts import Concept, ConceptTree, ConceptTreeError, read_answer, tree_prompt
from lit_decom.data.captions import EARS_PHRASES, EYES_PHRASES, NOSE_PHRASES, WORDS
from lit_decom.data.figure import SPECIES

CATS = {
    "lynx": {"ears": {"tips": "tufted ears"}, "tail": {"length": "a short tail", "end": "a black tail end"}},
    "puma": {"ears": {"tips": "plain ears"}, "tail": {"length": "a long tail", "end": "a black tail end"}},
    "lion": {"ears": {"tips": "plain ears"}, "tail": {"length": "a long tail", "end": "a bushy tail end"}},
}


def changed(**parts):
    """The cats, with other parts of the lion."""
    return {**CATS, "lion": {**CATS["lion"], **parts}}


def test_the_shipped_tree_is_what_tells_the_critters_apart():
    tree = ConceptTree.load("critters")
    assert tuple(tree.classes) == tuple(species.name for species in SPECIES)
    assert tree.parts == ("ears", "eyes", "nose")
    for species in SPECIES:
        said = {words for part in tree.classes[species.name].values() for words in part.values()}
        assert said == {EARS_PHRASES[species.ears], EYES_PHRASES[species.eyes], NOSE_PHRASES[species.nose]}
    assert len(tree.concepts) == 6
    assert all(set(re.findall("[a-z]+", text)) <= set(WORDS) for text in tree.texts), "the model knows the words"


def test_concepts_are_each_said_once_part_by_part():
    tree = ConceptTree(CATS, "a cat with {}")
    assert tree.concepts == (
        Concept("ears", "tips", "tufted ears"),
        Concept("ears", "tips", "plain ears"),
        Concept("tail", "length", "a short tail"),
        Concept("tail", "length", "a long tail"),
        Concept("tail", "end", "a black tail end"),
        Concept("tail", "end", "a bushy tail end"),
    )
    assert tree.texts[1] == "a cat with plain ears"
    assert tree.columns("tail") == [2, 3, 4, 5]
    assert tree.alternatives() == [[0, 1], [2, 3], [4, 5]]
    assert [name for name in CATS if tree.holds(name, tree.concepts[4])] == ["lynx", "puma"]


def test_a_tree_is_read_from_yaml_json_and_files(tmp_path):
    expected = ConceptTree(CATS, "a cat with {}")
    text = yaml.safe_dump({"template": "a cat with {}", "classes": CATS}, sort_keys=False)
    path = tmp_path / "cats.yaml"
    path.write_text(text)
    assert ConceptTree.read(text) == ConceptTree.load(path) == ConceptTree.load(str(path)) == expected
    with pytest.raises(FileNotFoundError):
        ConceptTree.load("dogs")


@pytest.mark.parametrize(
    ("classes", "sentence"),
    [
        pytest.param({"lynx": CATS["lynx"]}, "should describe at least two classes", id="one class"),
        pytest.param(changed(ears=["round"]), r"lion, ears should have attributes, but has \['round'\]", id="a list"),
        pytest.param({**CATS, "lion": None}, "lion should have parts, but has None", id="no parts"),
        pytest.param({**CATS, 7: CATS["lion"]}, "the class 7 should be a text; put it in quotes", id="a number"),
        pytest.param(
            changed(ears={"tips": False}), "lion, ears, tips should be texts, but says False", id="read as no"
        ),
        pytest.param(
            changed(tail={"length": "a long tail"}), "lion says nothing of the end of the tail, lynx does", id="missing"
        ),
        pytest.param(
            changed(mane={"colour": "a dark mane"}),
            "lion says something of the colour of the mane, lynx does not",
            id="more",
        ),
        pytest.param(
            {name: {**parts, "eyes": {"colour": "amber eyes"}} for name, parts in CATS.items()},
            "the colour of the eyes is 'amber eyes' in every class and tells nothing; leave it out",
            id="tells nothing",
        ),
        pytest.param({**CATS, "cougar": CATS["puma"]}, "puma and cougar are described alike", id="alike"),
    ],
)
def test_what_is_wrong_with_a_tree_is_said(classes, sentence):
    with pytest.raises(ConceptTreeError, match=sentence):
        ConceptTree(classes)


def test_everything_that_is_wrong_is_said_at_once():
    classes = changed(ears={"shape": "round ears"})
    with pytest.raises(ConceptTreeError) as caught:
        ConceptTree(classes, "a cat")
    assert len(str(caught.value).splitlines()) == 4
    many = {f"cat {n}": {"ears": {"tips": ""}} for n in range(30)}
    with pytest.raises(ConceptTreeError, match="and 20 more"):
        ConceptTree(many)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("classes: [", "Expected YAML or JSON, but it cannot be read"),
        ("I cannot help with that.", "Expected the keys `classes` and, if wanted, `template`, but got str"),
        ("cats: {}", r"but got \['cats'\]"),
    ],
)
def test_what_is_no_tree_at_all_is_refused(text, sentence):
    with pytest.raises(ConceptTreeError, match=sentence):
        ConceptTree.read(text)


class TestLanguageModel:
    def test_the_prompt_names_the_classes_and_its_own_example_is_a_tree(self):
        prompt = tree_prompt(["lynx", "puma", "lion"], "cats", most_parts=4)
        assert "3 classes of cats" in prompt
        assert "lynx, puma, lion" in prompt
        assert "at most 4" in prompt
        tree = read_answer(prompt, ["lynx", "puma"])
        assert tree.texts[0] == "a photo of something with pointed ears"

    def test_an_answer_is_read_with_and_without_a_fence_in_the_order_of_the_data(self):
        text = yaml.safe_dump({"classes": CATS})
        plain = read_answer(text, ["lion", "lynx", "puma"])
        assert tuple(plain.classes) == ("lion", "lynx", "puma")
        assert read_answer(f"Here it is:\n```yaml\n{text}```\nAnything else?", ["lion", "lynx", "puma"]) == plain

    def test_missing_and_unknown_classes_are_named(self):
        with pytest.raises(ConceptTreeError, match=r"lynx, tiger, but: missing tiger; unknown puma, lion\."):
            read_answer(yaml.safe_dump({"classes": CATS}, sort_keys=False), ["lynx", "tiger"])

    def test_one_class_is_no_question(self):
        with pytest.raises(ValueError, match="Expected `class_names` to be at least two names, but got 'lynx'"):
            tree_prompt("lynx")
