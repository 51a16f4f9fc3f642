"""All checks by group, in the order in which a person would make them."""

from __future__ import annotations

from collections.abc import Callable

from fiveline.sanity import Finding, rate, short_training
from fiveline.sanity.context import Context
from fiveline.sanity.data import augmentation, input_scale, label_counts
from fiveline.sanity.evaluation import batch_size, eval_mode, own_example, repeatable
from fiveline.sanity.first_steps import gradients, initial_loss, logits, overfit_batch, zero_grad
from fiveline.sanity.hyperparameters import hyperparameters
from fiveline.sanity.leaks import leaks, visible_answers

GROUPS: dict[str, list[Callable[[Context], Finding]]] = {
    "the data": [input_scale, label_counts, leaks, visible_answers, augmentation],
    "the hyperparameters": [hyperparameters],
    "the first steps": [initial_loss, logits, gradients, zero_grad, overfit_batch],
    "a short training": [short_training.baseline, rate.learning_rate, short_training.labels_fit],
    "the evaluation": [eval_mode, own_example, repeatable, batch_size],
}
