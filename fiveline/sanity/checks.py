"""All checks by group, in the order in which a person would make them."""

from __future__ import annotations

from collections.abc import Callable

from fiveline.sanity import Finding, data, evaluation, first_steps, leaks, rate, short_training
from fiveline.sanity.context import Context
from fiveline.sanity.hyperparameters import hyperparameters

GROUPS: dict[str, list[Callable[[Context], Finding]]] = {
    "the data": [data.input_scale, data.label_counts, leaks.leaks, leaks.visible_answers, data.augmentation],
    "the hyperparameters": [hyperparameters],
    "the first steps": [
        first_steps.initial_loss,
        first_steps.logits,
        first_steps.gradients,
        first_steps.zero_grad,
        first_steps.overfit_batch,
    ],
    "a short training": [short_training.baseline, rate.learning_rate, short_training.labels_fit],
    "the evaluation": [evaluation.eval_mode, evaluation.own_example, evaluation.repeatable, evaluation.batch_size],
}
