"""Asking a language model for a concept tree, and reading its answer."""

import re
from collections.abc import Sequence

from lit_decom.concepts.tree import ConceptTree, ConceptTreeError

_PROMPT = """\
Describe what the following {n} classes of {domain} look like, so that someone who has never seen them can tell them
apart in a photo: {names}.

1. List the visible parts in which at least two of the classes differ, at most {parts}.
2. For each part list the attributes in which they differ: shape, colour, size, texture.
3. For each class give every attribute of every part in two to four words that name the part, such as "pointed ears"
   or "a short tail". Where two classes agree, use exactly the same words. Use the same parts and attributes for all
   classes. Leave out an attribute that is the same in all classes, and whatever cannot be seen.

Answer with nothing but YAML in this form:

```yaml
template: "a photo of something with {{}}"
classes:
  {first}:
    ears: {{shape: pointed ears}}
    tail: {{length: a short tail}}
  {second}:
    ears: {{shape: round ears}}
    tail: {{length: a long tail}}
```
"""
_FENCED = re.compile(r"```[a-z]*\s*\n(.*?)```", re.DOTALL)


def tree_prompt(class_names: Sequence[str], domain: str = "things", most_parts: int = 6) -> str:
    """Write what to ask a language model for, in a chat of its own.

    One question for parts, attributes and words together (our choice; Hi-CoDe asks for parts first, then for
    attributes, then for their values). What it answers, :func:`read_answer` checks.

    Args:
        class_names: Names of at least two classes, as the data set has them.
        domain: What they are classes of, in the plural, such as "birds".
        most_parts: How many parts it may list.

    Returns:
        The prompt.
    """
    if isinstance(class_names, str) or len(class_names) < 2:
        raise ValueError(f"Expected `class_names` to be at least two names, but got {class_names!r}.")
    return _PROMPT.format(
        n=len(class_names),
        domain=domain,
        names=", ".join(class_names),
        parts=most_parts,
        first=class_names[0],
        second=class_names[1],
    )


def read_answer(answer: str, class_names: Sequence[str]) -> ConceptTree:
    """Read the concept tree in a language model's answer, with the classes in the order of the data set.

    Args:
        answer: The answer, with or without a fence around its YAML or JSON and with or without words around that.
        class_names: Names of the classes that were asked for.

    Returns:
        The tree.

    Raises:
        ConceptTreeError: If there is no tree in it, or its classes are not those; the message says what is wrong and
            may be sent back as it is.
    """
    fenced = _FENCED.search(answer)
    tree = ConceptTree.read(fenced[1] if fenced else answer)
    missing = [name for name in class_names if name not in tree.classes]
    unknown = [name for name in tree.classes if name not in class_names]
    if missing or unknown:
        wrong = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unknown {', '.join(unknown)}"] * bool(unknown)
        raise ConceptTreeError(f"Expected exactly the classes {', '.join(class_names)}, but: {'; '.join(wrong)}.")
    return ConceptTree({name: tree.classes[name] for name in class_names}, tree.template)
