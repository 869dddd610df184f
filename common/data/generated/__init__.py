"""Data and control tasks made by a program, so that their true structure is known."""

from common.data.generated.colored_digits import (
    ColoredDigits,
    ColoredDomains,
    as_rgb,
    color_digits,
    colored_domains,
    without_color,
)
from common.data.generated.environments import (
    CartPoleState,
    Environment,
    Experience,
    Moved,
    Policy,
    cart_pole,
    episode_returns,
    rollout,
)
from common.data.generated.glyph_fonts import HELD_OUT_FONTS, TRAINING_FONTS
from common.data.generated.glyphs import GlyphData, GlyphModel, draw_fonts, glyph_model
from common.data.generated.rotated_domains import rotated_digits
from common.data.generated.segments import SegmentData, segments
from common.data.generated.structural_design import (
    StructuralSizes,
    StructuralSpread,
    natural_parameters,
)
from common.data.generated.structural_models import (
    StructuralData,
    StructuralModel,
    structural_model,
)
from common.data.generated.translation import Lexicon, Sentences, Translations, translations

__all__ = [
    "colored_domains",
    "ColoredDomains",
    "color_digits",
    "ColoredDigits",
    "without_color",
    "as_rgb",
    "rotated_digits",
    "glyph_model",
    "GlyphModel",
    "GlyphData",
    "draw_fonts",
    "TRAINING_FONTS",
    "HELD_OUT_FONTS",
    "structural_model",
    "StructuralSizes",
    "StructuralSpread",
    "StructuralModel",
    "StructuralData",
    "natural_parameters",
    "segments",
    "SegmentData",
    "translations",
    "Translations",
    "Sentences",
    "Lexicon",
    "cart_pole",
    "CartPoleState",
    "Environment",
    "Moved",
    "Policy",
    "rollout",
    "Experience",
    "episode_returns",
]
