"""Hyperparameters of sequence tagging. The defaults are the values of CS230's NLP example."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field

import utils


class Params(utils.Params):
    """What `experiments/<run>/params.json` may say when its task is `ner`."""

    task: str = Field("ner", description="which folder of model/ defines net, data and hyperparameters")
    data_dir: str | None = Field("data/ner_small", description="the data's folder", json_schema_extra=utils.MACHINE)
    monitor: str = Field("f1", description="val metric, or loss, that decides which checkpoint is best")

    embedding_dim: int = Field(50, ge=1, description="size of a word's embedding")
    embedding_file: str | None = Field(None, description="text file of word vectors to start from, in GloVe's format")
    char_channels: int = Field(0, ge=0, description="features read from a word's characters; 0: none")
    char_embedding_dim: int = Field(25, ge=1, description="size of a character's embedding")
    max_word_len: int = Field(20, ge=1, le=100, description="characters of a word that are read, from its start")
    lstm_hidden_dim: int = Field(50, ge=1, description="width of the LSTM, in each direction")
    num_layers: int = Field(1, ge=1, le=8, description="layers of the LSTM, in each direction")
    bidirectional: bool = Field(False, description="read each sentence from its end as well")
    dropout_rate: float = Field(0.0, ge=0, lt=1, description="share of the features dropped before and after the LSTM")
    word_dropout_rate: float = Field(0.0, ge=0, lt=1, description="share of the words replaced by unknown in training")

    min_count_word: int = Field(1, ge=1, description="words rarer than this in train are unknown")
    min_count_tag: int = Field(1, ge=1, description="tags rarer than this in train become O")
    tag_scheme: Literal["bio", "iob1"] = Field("bio", description="iob1: turn CoNLL-2003's IOB1 tags into BIO")
    token_column: int = Field(0, description="column of the tokens in column files; -1 is the last column")
    tag_column: int = Field(-1, description="column of the tags in column files; -1 is the last column")
    val_fraction: float = Field(0.1, gt=0, lt=1, description="share of train that becomes val if the data has no val")
    split_seed: int = Field(230, ge=0, lt=2**32, description="decides which examples become val, whatever `seed` is")

    def warnings(self) -> list[str]:
        """Return one line for each setting that can have no effect beside the others."""
        is_used = dict.fromkeys(("char_embedding_dim", "max_word_len"), self.char_channels > 0)
        return [*super().warnings(), *utils.idle_unless(self, is_used, "char_channels")]

    @property
    def words(self) -> list[str]:
        """The vocabulary, in the order of the embedding's rows; known when the data has been read."""
        return cast("list[str]", self.facts["words"])

    @property
    def tags(self) -> list[str]:
        """The tags, in the order of the outputs; known when the data has been read."""
        return cast("list[str]", self.facts["tags"])
