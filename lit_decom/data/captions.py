"""What is said of a critter: captions for image-text models, and all words that they are made of."""

import re
from random import Random

from lit_decom.data.figure import COATS, COLOURS, SPECIES, Traits

EARS_PHRASES = {"pointed": "pointed ears", "round": "round ears"}
EYES_PHRASES = {"open": "open eyes", "sleepy": "sleepy eyes"}
NOSE_PHRASES = {"button": "a button nose", "snout": "a broad snout"}
MOUTH_PHRASES = {"smiling": "a smile", "open": "an open mouth", "closed": "a closed mouth"}
TAIL_PHRASES = {"bushy": "a bushy tail", "pompon": "a pompon tail", "thin": "a thin tail"}

_OPENINGS = ("a photo of ", "a picture of ", "")
_NAMED = 0.6  # share of the captions that name the species


def caption(traits: Traits, rng: Random) -> str:
    """Say some of what there is to say of a critter.

    Six captions in ten name the species, the others call it an animal. Ears, eyes and nose, which tell the species, are
    told in half of the captions each, mouth, tail, colour and coat in fewer. How often what is told is our choice.

    Args:
        traits: What the critter is like.
        rng: Chooses what is said.

    Returns:
        Lower-case words of ``WORDS``, such as "a photo of a spotted piko with pointed ears and a thin tail".
    """
    noun = traits.species.name if rng.random() < _NAMED else "animal"
    adjectives = [word for word in (traits.coat, traits.colour) if rng.random() < 0.2]
    phrases = (
        (EARS_PHRASES[traits.species.ears], 0.5),
        (EYES_PHRASES[traits.species.eyes], 0.5),
        (NOSE_PHRASES[traits.species.nose], 0.5),
        (MOUTH_PHRASES[traits.mouth], 0.15),
        (TAIL_PHRASES[traits.tail], 0.15),
    )
    said = [phrase for phrase, share in phrases if rng.random() < share]
    words = " ".join([*adjectives, noun])
    article = "an" if words[0] in "aeiou" else "a"
    opening = _OPENINGS[int(rng.random() * len(_OPENINGS))]
    return f"{opening}{article} {words}" + (f" with {' and '.join(said)}" if said else "")


_PHRASES = (EARS_PHRASES, EYES_PHRASES, NOSE_PHRASES, MOUTH_PHRASES, TAIL_PHRASES)
_SENTENCES = (
    *_OPENINGS,
    "a an animal with and",
    *(species.name for species in SPECIES),
    *COATS,
    *COLOURS,
    *(phrase for phrases in _PHRASES for phrase in phrases.values()),
)
WORDS = tuple(sorted(set(re.findall(r"[a-z]+", " ".join(_SENTENCES)))))
