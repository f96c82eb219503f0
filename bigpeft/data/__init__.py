"""Rows in, token batches out: formats, templates, masks, order.

Importing the room loads neither transformers nor datasets: the recipe asks it for format names.
"""

from bigpeft.data.card import card_of
from bigpeft.data.chat import Chat, read_template, render
from bigpeft.data.choices import Choices, choice_rows
from bigpeft.data.collate import Item, Padded, collate
from bigpeft.data.extent import rows_in
from bigpeft.data.fingerprint import fingerprint_of
from bigpeft.data.formats import Format, Row, RowError, Turn, formats
from bigpeft.data.held_out import Part
from bigpeft.data.mix import mixed
from bigpeft.data.options import OptionRows, option_rows
from bigpeft.data.order import sample_indices, share
from bigpeft.data.pack import Packed, pack
from bigpeft.data.prepare import prepare
from bigpeft.data.prompts import (
    Prompt,
    end_of_turn,
    prompt_of,
    question,
    read_prompts,
    read_questions,
    tokens_before,
)
from bigpeft.data.reader import Reader, detect
from bigpeft.data.sources import Rows, load_rows
from bigpeft.data.stream import Place, Window, windows
from bigpeft.data.tokenize import Seen, tokenise
from bigpeft.data.tokenizer import load_tokenizer, serialised
from bigpeft.data.tokens import Skipped, Tokens, check_vocabulary
from bigpeft.data.workers import cores

__all__ = [
    "Chat",
    "Choices",
    "Format",
    "Item",
    "OptionRows",
    "Packed",
    "Padded",
    "Part",
    "Place",
    "Prompt",
    "Reader",
    "Row",
    "RowError",
    "Rows",
    "Seen",
    "Skipped",
    "Tokens",
    "Turn",
    "Window",
    "card_of",
    "check_vocabulary",
    "choice_rows",
    "collate",
    "cores",
    "detect",
    "end_of_turn",
    "fingerprint_of",
    "formats",
    "load_rows",
    "load_tokenizer",
    "mixed",
    "option_rows",
    "pack",
    "prepare",
    "prompt_of",
    "question",
    "read_prompts",
    "read_questions",
    "read_template",
    "render",
    "rows_in",
    "sample_indices",
    "serialised",
    "share",
    "tokenise",
    "tokens_before",
    "windows",
]
