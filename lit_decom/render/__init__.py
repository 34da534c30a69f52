"""Tensors to pictures: overlays, the OSSM grid, curves. The first place where NumPy and PIL appear."""

from lit_decom.render.captions import UNNAMED, cautions, component_captions, figures, share_text, verdict
from lit_decom.render.classes import class_colours, class_grid, class_overlay
from lit_decom.render.curves import contribution_curves
from lit_decom.render.factors import FactorPanel
from lit_decom.render.grids import ossm_grids
from lit_decom.render.heat import heat_colours, overlay, to_picture, to_unit

__all__ = [
    "UNNAMED",
    "FactorPanel",
    "cautions",
    "class_colours",
    "class_grid",
    "class_overlay",
    "component_captions",
    "contribution_curves",
    "figures",
    "heat_colours",
    "ossm_grids",
    "overlay",
    "share_text",
    "to_picture",
    "to_unit",
    "verdict",
]
