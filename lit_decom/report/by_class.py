"""Maps of several classes of an image, one hue for each, where a run recorded any."""

from collections.abc import Sequence
from dataclasses import dataclass

from lit_decom.records import displayed
from lit_decom.render import class_colours, class_grid, verdict
from lit_decom.report.pictures import data_uri
from lit_decom.report.runs import Run


@dataclass(frozen=True)
class ClassesApart:
    """A picture of an image at the last snapshot, and what it says to who does not see it.

    Attributes:
        picture: as a data URI.
        text: what the image is, and the classes that are told apart in it.
    """

    picture: str
    text: str


def classes_apart(run: Run, rows: Sequence[int]) -> list[ClassesApart]:
    """Draw the classes of some images, the same class in the same hue; none where the run has no such maps."""
    record, probe = run.last, run.probe
    if record.class_maps is None or record.class_map_classes is None or probe is None:
        return []
    images, names = displayed(probe), [run.class_name(index) for index in range(record.logits.shape[1])]
    colours = class_colours(record.class_map_classes[list(rows)])
    drawn = []
    for row in rows:
        classes, shares = record.class_map_classes[row], record.logits[row].float().softmax(dim=0)
        label, answer = names[int(record.labels[row])], int(shares.argmax())
        picture = class_grid(
            images[row, None],
            record.class_maps[row, None],
            classes[None],
            shares[classes][None],
            class_names=names,
            captions=[verdict(label, names[answer], float(shares[answer]))],
            colours=colours,
        )
        told = ", ".join(names[index] for index in classes.tolist())
        drawn.append(ClassesApart(data_uri(picture, quality=90), f"{label}: {told}"))
    return drawn
