"""Concepts in words: trees of them, classes by the votes of parts, names for components and factors."""

from lit_decom.concepts.naming import Name, Namer
from lit_decom.concepts.prompt import read_answer, tree_prompt
from lit_decom.concepts.tree import Concept, ConceptTree, ConceptTreeError
from lit_decom.concepts.voting import PartClassifiers

__all__ = [
    "Concept",
    "ConceptTree",
    "ConceptTreeError",
    "Name",
    "Namer",
    "PartClassifiers",
    "read_answer",
    "tree_prompt",
]
