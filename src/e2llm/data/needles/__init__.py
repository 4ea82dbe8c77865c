"""Needles: short sentences hidden in long texts, for training and for RULER's tasks.

Training draws its needles with `generate_needles`. RULER's tasks have their own wording; their words, their
values and the hiding come from here.
"""

from e2llm.data.needles.generator import generate_needles
from e2llm.data.needles.hiding import Passage, draw_number, draw_uuid, draw_words, hide
from e2llm.data.needles.kinds import KINDS
from e2llm.data.needles.words import (
    ADJECTIVES,
    LEAST_CODED_WORDS,
    NOUNS,
    coded_vocabulary,
    made_up_word,
    numbered,
    zipf_words,
)

__all__ = [
    "ADJECTIVES",
    "KINDS",
    "LEAST_CODED_WORDS",
    "NOUNS",
    "Passage",
    "coded_vocabulary",
    "draw_number",
    "draw_uuid",
    "draw_words",
    "generate_needles",
    "hide",
    "made_up_word",
    "numbered",
    "zipf_words",
]
