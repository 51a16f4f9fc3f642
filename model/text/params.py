"""Hyperparameters of text. The defaults are nanoGPT's settings for a CPU."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

import utils


class Params(utils.Params):
    """The keys of `experiments/<run>/params.json` when its task is `text`."""

    task: str = Field("text", description="which folder of model/ defines net, data and hyperparameters")
    data_dir: str | None = Field("data/python_source", description="the data's folder", json_schema_extra=utils.MACHINE)
    monitor: str = Field("loss", description="val metric, or loss, that decides which checkpoint is best")

    target: Literal["next", "label"] = Field("next", description="predict each next token, or the label of a text")
    tokens: Literal["bytes", "characters", "pieces"] = Field(
        "characters", description="what a text is split into; pieces: as in tokenizer_file"
    )
    tokenizer_file: str | None = Field(None, description="tokenizer.json of the tokenizers library, for tokens=pieces")

    context_length: int = Field(64, ge=2, description="tokens that the net sees at once; a longer labelled text is cut")
    num_layers: int = Field(4, ge=1, description="blocks of attention and feed-forward layers")
    num_heads: int = Field(4, ge=1, description="attention heads of a block; each has width / num_heads features")
    width: int = Field(128, ge=2, description="features of a token")
    positions: Literal["learned", "rotary"] = Field("learned", description="how a token's position is encoded")
    gelu: Literal["tanh", "exact"] = Field("tanh", description="tanh: approximated, as in GPT-2; exact: as in nanoGPT")
    dropout_rate: float = Field(0.0, ge=0, lt=1, description="share of the features dropped in training")

    tokens_per_epoch: int | None = Field(
        200_000, ge=1, description="tokens in an epoch, unless evaluate_every_steps decides; null: as many as train has"
    )
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share that becomes val if there is no val split")
    test_fraction: float = Field(0.0, ge=0, lt=1, description="share that becomes test if there is no train split")
    text_column: str = Field("text", description="column or key of the text in CSV and JSON lines files")
    label_column: str = Field("label", description="column or key of the label in CSV and JSON lines files")

    @model_validator(mode="after")
    def _check_sizes(self) -> Params:
        is_rotary, heads = self.positions == "rotary", self.num_heads
        wrong = {
            f"num_heads={heads}: expected a divisor of width={self.width}": self.width % heads != 0,
            "positions='rotary': expected an even width for each head": is_rotary and self.width // heads % 2 == 1,
            "tokens='pieces': needs tokenizer_file": self.tokens == "pieces" and self.tokenizer_file is None,
            "val_fraction + test_fraction: expected a sum below 1": self.val_fraction + self.test_fraction >= 1,
        }
        if any(wrong.values()):
            raise ValueError("; ".join(message for message, is_wrong in wrong.items() if is_wrong))
        return self

    def warnings(self) -> list[str]:
        """Return one line for each setting that can have no effect beside the others."""
        is_next = self.target == "next"
        by_target = {"tokens_per_epoch": is_next, "text_column": not is_next, "label_column": not is_next}
        lines = utils.idle_unless(self, {"tokenizer_file": self.tokens == "pieces"}, "tokens")
        return [*super().warnings(), *utils.idle_unless(self, by_target, "target"), *lines]
