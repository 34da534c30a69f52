"""A concept tree: what each class looks like in words, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

Described = Mapping[str, Mapping[str, Mapping[str, str]]]
_MOST_LISTED = 10


class ConceptTreeError(ValueError):
    """A concept tree cannot be used; the message lists what is wrong with it."""


@dataclass(frozen=True)
class Concept:
    """One thing that can be said of a part, and that is true of some classes and not of others.

    Args:
        part: Such as "ears".
        attribute: What is told of the part, such as "shape".
        words: What it is like, such as "pointed ears".
    """

    part: str
    attribute: str
    words: str


@dataclass(frozen=True)
class ConceptTree:
    """What each class looks like: class -> part -> attribute -> words.

    Every class describes the same attributes of the same parts, so that an image can be asked which of the words of an
    attribute fit it best. After the trees of Hi-CoDe ("LLM-based Hierarchical Concept Decomposition", arXiv
    2405.18672), whose texts also depend on the class; ours do not, so that a name says what is seen and not whose it is
    (our choice).

    Args:
        classes: The words by class, part and attribute.
        template: Text that an image-text model is asked, with ``{}`` in the place of the words.

    Raises:
        ConceptTreeError: If classes describe different attributes, an attribute has the same words in every class, two
            classes are described alike, or anything is not a text.
    """

    classes: Described
    template: str = "a photo of something with {}"

    def __post_init__(self) -> None:
        problems = _problems(self.classes, self.template)
        if problems:
            more = f"\n  ... and {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
            listed = "\n  ".join(problems[:_MOST_LISTED])
            raise ConceptTreeError(
                f"Expected a concept tree class -> part -> attribute -> words, but:\n  {listed}{more}"
            )

    @classmethod
    def load(cls, source: str | Path) -> ConceptTree:
        """Read a tree from a YAML file, or one of those that are shipped, by its name.

        Args:
            source: Path of a file, or ``"critters"``.

        Raises:
            FileNotFoundError: If there is no such file.
            ConceptTreeError: If it holds no tree.
        """
        shipped = files("lit_decom.concepts").joinpath(f"{source}.yaml")
        if isinstance(source, str) and shipped.is_file():
            return cls.read(shipped.read_text(encoding="utf-8"))
        return cls.read(Path(source).read_text(encoding="utf-8"))

    @classmethod
    def read(cls, text: str) -> ConceptTree:
        """Read a tree from YAML or JSON: ``classes`` and, if wanted, ``template``.

        Raises:
            ConceptTreeError: If it holds no tree.
        """
        try:
            data = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConceptTreeError(f"Expected YAML or JSON, but it cannot be read: {error}") from error
        if not isinstance(data, Mapping) or "classes" not in data or set(data) - {"classes", "template"}:
            got = sorted(map(str, data)) if isinstance(data, Mapping) else type(data).__name__
            raise ConceptTreeError(f"Expected the keys `classes` and, if wanted, `template`, but got {got}.")
        return cls(**data)

    @cached_property
    def concepts(self) -> tuple[Concept, ...]:
        """Every different thing that the tree says, part by part, in the order in which the classes say it."""
        said = dict.fromkeys(
            Concept(part, attribute, words)
            for part in self.parts
            for attribute in next(iter(self.classes.values()))[part]
            for parts in self.classes.values()
            for words in [parts[part][attribute]]
        )
        return tuple(said)

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts."""
        return tuple(next(iter(self.classes.values())))

    @property
    def texts(self) -> tuple[str, ...]:
        """What an image-text model is asked, one text for each concept."""
        return tuple(self.template.replace("{}", concept.words) for concept in self.concepts)

    def columns(self, part: str) -> list[int]:
        """Which concepts are about a part."""
        return [column for column, concept in enumerate(self.concepts) if concept.part == part]

    def alternatives(self) -> list[list[int]]:
        """Which concepts exclude one another: those of one attribute of one part, for each."""
        groups: dict[tuple[str, str], list[int]] = {}
        for column, concept in enumerate(self.concepts):
            groups.setdefault((concept.part, concept.attribute), []).append(column)
        return list(groups.values())

    def holds(self, class_name: str, concept: Concept) -> bool:
        """Whether a class is described by a concept."""
        return self.classes[class_name][concept.part][concept.attribute] == concept.words


def _problems(classes: Any, template: Any) -> list[str]:
    """Everything that is wrong with a tree, one sentence each."""
    found = []
    if not isinstance(template, str) or template.count("{}") != 1:
        found.append(f"`template` should be a text with one {{}}, but is {template!r}.")
    if not isinstance(classes, Mapping) or len(classes) < 2:
        return [*found, f"`classes` should describe at least two classes, but is {classes!r}."]
    shapeless = [sentence for name, parts in classes.items() for sentence in _misshapen(name, parts)]
    if shapeless:
        return found + shapeless
    said = {name: _flat(parts) for name, parts in classes.items()}
    first, expected = next(iter(said.items()))
    for name, words in said.items():
        found += [f"{name} says nothing of {_spoken(at)}, {first} does." for at in expected if at not in words]
        found += [f"{name} says something of {_spoken(at)}, {first} does not." for at in words if at not in expected]
    return found or _telling_nothing(said)


def _misshapen(name: Any, parts: Any) -> list[str]:
    """What is no text, or no mapping, in the description of one class."""
    if not isinstance(name, str):
        return [f"the class {name!r} should be a text; put it in quotes."]
    if not isinstance(parts, Mapping) or not parts:
        return [f"{name} should have parts, but has {parts!r}."]
    found = []
    for part, attributes in parts.items():
        if not isinstance(attributes, Mapping) or not attributes:
            found.append(f"{name}, {part} should have attributes, but has {attributes!r}.")
            continue
        for attribute, words in attributes.items():
            if not all(isinstance(text, str) and text.strip() for text in (part, attribute, words)):
                found.append(f"{name}, {part}, {attribute} should be texts, but says {words!r}; put it in quotes.")
    return found


def _telling_nothing(said: Mapping[str, Mapping[tuple[str, str], str]]) -> list[str]:
    """What does not tell any classes apart, and classes that nothing tells apart."""
    found = []
    for at in next(iter(said.values())):
        words = {description[at] for description in said.values()}
        if len(words) == 1:
            found.append(f"{_spoken(at)} is {words.pop()!r} in every class and tells nothing; leave it out.")
    times = Counter(tuple(description.values()) for description in said.values())
    for alike in (key for key, count in times.items() if count > 1):
        names = [name for name, description in said.items() if tuple(description.values()) == alike]
        found.append(f"{' and '.join(names)} are described alike, so nothing tells them apart.")
    return found


def _flat(parts: Mapping[str, Mapping[str, str]]) -> dict[tuple[str, str], str]:
    ordered = sorted(parts.items())
    return {(part, attribute): words for part, known in ordered for attribute, words in sorted(known.items())}


def _spoken(at: Sequence[str]) -> str:
    return f"the {at[1]} of the {at[0]}"
