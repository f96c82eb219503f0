"""P-tuning, virtual tokens that come from a trained encoder (Liu et al., arXiv 2103.10385).

    inputs = [encoder(V); E[tokens]]        V (length, hidden_size), E the embedding

The encoder is HF peft's: three linears with ReLU between them, or a bidirectional LSTM and two
linears. Only its length · hidden_size outputs matter once training is over. V starts from N(0, 1)
and the encoder as torch starts its layers, as in HF peft.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from bigpeft.errors import RecipeError
from bigpeft.methods.base import MethodOptions, Role
from bigpeft.methods.peft_form import PeftForm, PeftSeat
from bigpeft.methods.seats import ModelInput, PromptMethod


class PTuning(PromptMethod):
    """Virtual tokens through a trained encoder."""

    class Options(MethodOptions):
        """How many, and the encoder."""

        length: PositiveInt = Field(20, description="virtual tokens")
        encoder: Literal["mlp", "lstm"] = Field("mlp", description="what makes embeddings of them")
        encoder_hidden_size: PositiveInt | None = Field(
            None, description="numbers between its layers; default: the model's hidden size"
        )
        encoder_layers: PositiveInt = Field(2, description="lstm: layers that lie on each other")
        dropout: float = Field(
            0.0, ge=0, lt=1, description="lstm: dropout between its layers, in training only"
        )

    family = "reconstruction"
    source = "arXiv 2103.10385"
    moves = "what is attended to; no weight changes"
    learning_rate = 1e-3
    learning_rate_source = "short runs with AdamW on movie reviews"
    when = "as prompt_tuning, where plain embeddings learn too slowly"
    hf_peft = "P_TUNING, the encoder's outputs"

    def __init__(self, seat: ModelInput, options: Options) -> None:
        super().__init__()
        _refuse_lstm_options(options)
        self.options, self.length = options, options.length
        width, device = seat.hidden_size, seat.device
        hidden = options.encoder_hidden_size or width
        self.embedding = nn.Parameter(torch.empty(options.length, width, device=device))
        if options.encoder == "lstm":
            self.lstm_head = nn.LSTM(
                width,
                hidden,
                options.encoder_layers,
                dropout=options.dropout if options.encoder_layers > 1 else 0.0,
                bidirectional=True,
                batch_first=True,
                device=device,
            )
            sizes = [2 * hidden, 2 * hidden, width]
        else:
            self.lstm_head = None
            sizes = [width, hidden, hidden, width]
        self.mlp_head = _linears(sizes, device)

    def reset(self) -> None:
        """V from N(0, 1), the encoder as torch starts its layers."""
        super().reset()
        nn.init.normal_(self.embedding)
        for module in self.modules():
            if isinstance(module, nn.LSTM | nn.Linear):
                module.reset_parameters()

    def forward(self) -> Tensor:
        """The encoder's outputs (length, hidden_size)."""
        inner = self.embedding
        if self.lstm_head is not None:
            inner = self.lstm_head(inner[None])[0][0]
        return self.mlp_head(inner)

    def peft_forms(self, seat: PeftSeat) -> Sequence[PeftForm]:
        """P-tuning; of the encoder HF peft's files keep what it gives."""
        return [self.virtual_tokens("P_TUNING", seat)]

    def role(self, parameter: str) -> Role:
        """Of all this only the encoder's matrices are decayed."""
        return Role(parameter, decay=".weight" in parameter)

    @classmethod
    def count(cls, options: MethodOptions, seat: ModelInput) -> int:
        """length · hidden_size + the encoder."""
        assert isinstance(options, PTuning.Options)
        width, hidden = seat.hidden_size, options.encoder_hidden_size or seat.hidden_size
        if options.encoder == "mlp":
            encoder = (width + hidden + 2) * hidden + (hidden + 1) * width
        else:
            inputs = [width] + (options.encoder_layers - 1) * [2 * hidden]
            lstm = sum(2 * 4 * hidden * (size + hidden + 2) for size in inputs)
            encoder = lstm + (2 * hidden + 1) * (2 * hidden + width)
        return options.length * width + encoder


def _linears(sizes: list[int], device: torch.device) -> nn.Sequential:
    """Linears of these sizes with ReLU between them."""
    layers: list[nn.Module] = []
    for ins, outs in pairwise(sizes):
        layers += [nn.Linear(ins, outs, device=device), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _refuse_lstm_options(options: PTuning.Options) -> None:
    """Raise RecipeError for an option without effect."""
    mine = {"encoder_layers"} if options.encoder == "lstm" else set()
    if options.encoder == "lstm" and options.encoder_layers > 1:
        mine.add("dropout")
    for key in options.changed({"encoder_layers", "dropout"} - mine):
        raise RecipeError(
            f"method.{key}",
            f"has no effect on this encoder ({options.encoder})",
            "remove it, or write method.encoder: lstm (dropout needs encoder_layers: 2)",
        )
