"""Linear probe: a linear classifier fitted on features, as CLIP and the self-supervised report it.

Multinomial logistic regression without augmentation, by full-batch L-BFGS on the device; the
strength of regularisation is chosen on a fifth of the training pictures, then all are fitted. With
`strength` = 1 / (pictures x C) the optimum is that of scikit-learn's `LogisticRegression(C=C)`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int32, Int64

from oner_jax.evals.inputs.features import PRIMARY, SPACES
from oner_jax.evals.inputs.labelled_splits import SharedClasses
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.metrics.classification import confusion, mean_per_class
from oner_jax.evals.metrics.measurement import Measurement, absent, measured

# Of the penalty, from strong to weak. Features have length 1, so that one grid suits every model.
STRENGTHS = tuple(10.0**-exponent for exponent in (2, 3, 4, 5, 6, 7))
MAXIMUM_ITERATIONS = 300
TOLERANCE = 1e-5  # of the largest entry of the gradient

NO_TRAINING = "no training split with classes of this dataset beside it"


@dataclasses.dataclass(frozen=True)
class LinearClassifier:
    """Scores of classes: features @ kernel + bias."""

    kernel: Float32[np.ndarray, "width classes"]
    bias: Float32[np.ndarray, "classes"]

    def __call__(self, features: Float[np.ndarray, "n width"]) -> Float[np.ndarray, "n classes"]:
        return features @ self.kernel + self.bias


def fit(
    features: Float[np.ndarray, "n width"],
    classes: Int64[np.ndarray, "n"],
    number_of_classes: int,
    strength: float,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """The minimum of mean cross-entropy + strength / 2 x |kernel|^2, the bias left free.

    `start` is where to begin, such as the optimum at another strength.
    """
    width = features.shape[1]
    parameters = {
        "kernel": np.zeros((width, number_of_classes), np.float32)
        if start is None
        else start.kernel,
        "bias": np.zeros(number_of_classes, np.float32) if start is None else start.bias,
    }
    found = _minimise(
        parameters, features.astype(np.float32), classes.astype(np.int32), np.float32(strength)
    )
    return LinearClassifier(np.asarray(found["kernel"]), np.asarray(found["bias"]))


@jax.jit
def _minimise(
    parameters: dict[str, Array],
    features: Float32[Array, "n width"],
    classes: Int32[Array, "n"],
    strength: Float32[Array, ""],
) -> dict[str, Array]:
    def loss(parameters: dict[str, Array]) -> Array:
        logits = (
            jnp.matmul(features, parameters["kernel"], precision=jax.lax.Precision.HIGHEST)
            + parameters["bias"]
        )
        errors = optax.softmax_cross_entropy_with_integer_labels(logits, classes)
        return errors.mean() + strength / 2 * jnp.sum(jnp.square(parameters["kernel"]))

    optimizer = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)

    def step(carry: tuple[Any, Any, Array, Array]) -> tuple[Any, Any, Array, Array]:
        parameters, state, number, _ = carry
        value, gradient = value_and_grad(parameters, state=state)
        updates, state = optimizer.update(
            gradient, state, parameters, value=value, grad=gradient, value_fn=loss
        )
        largest = optax.tree.norm(gradient, ord=jnp.inf)
        return optax.apply_updates(parameters, updates), state, number + 1, largest

    def unfinished(carry: tuple[Any, Any, Array, Array]) -> Array:
        _, _, number, largest = carry
        return (number < MAXIMUM_ITERATIONS) & (largest > TOLERANCE)

    begun = (parameters, optimizer.init(parameters), jnp.int32(0), jnp.float32(jnp.inf))
    return jax.lax.while_loop(unfinished, step, begun)[0]


def choose_strength(
    features: Float[np.ndarray, "n width"],
    classes: Int64[np.ndarray, "n"],
    number_of_classes: int,
    validation: Bool[np.ndarray, "n"],
    strengths: Sequence[float] = STRENGTHS,
) -> tuple[float, LinearClassifier]:
    """The strength that is most often right on `validation`, and the classifier fitted with it on
    the other rows; of equally good ones the strongest."""
    fitted: list[LinearClassifier] = []
    right = []
    for strength in strengths:
        start = fitted[-1] if fitted else None
        kept = features[~validation], classes[~validation]
        fitted.append(fit(*kept, number_of_classes, strength, start))
        answers = np.argmax(fitted[-1](features[validation]), axis=1)
        right.append(int(np.sum(answers == classes[validation])))
    best = int(np.argmax(right))
    return strengths[best], fitted[best]


def probe(
    shared: SharedClasses,
    train: Float[np.ndarray, "train width"],
    test: Float[np.ndarray, "test width"],
) -> tuple[dict[str, Measurement], float, Int64[np.ndarray, "test"]]:
    """`top1` and `mean_per_class` of the probe, the strength chosen, and its answers."""
    number = len(shared.names)
    strength, start = choose_strength(train, shared.train_classes, number, shared.validation)
    classifier = fit(train, shared.train_classes, number, strength, start)
    answers = np.argmax(classifier(test), axis=1)
    hits = answers == shared.test_classes
    chance = 1.0 / number
    found = {
        "top1": Measurement.mean(hits, chance),
        "mean_per_class": mean_per_class(hits, shared.test_classes, chance),
    }
    return found, strength, answers


def probe_task(material: Material) -> dict[str, Any]:
    """The linear probe in both spaces; nothing where no training split shares classes."""
    shared = material.shared_classes
    if shared is None:
        return absent(NO_TRAINING)
    results: dict[str, Mapping[str, Measurement]] = {}
    strengths, mistakes = {}, None
    for space in SPACES:
        test = material.spaces[space].image[shared.test]
        train = material.training_pictures[space]
        results[space], strengths[space], answers = probe(shared, train, test)
        if space == PRIMARY:
            mistakes = confusion(shared.test_classes, answers, shared.names)
    return {
        **measured(results),
        "classes": len(shared.names),
        "target": shared.kind,
        "training_pictures": len(shared.train),
        "strength": strengths,
        "confusion": mistakes,
    }
