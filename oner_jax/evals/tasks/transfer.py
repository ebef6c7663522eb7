"""Cross-modal transfer: does a classifier that was fitted on pictures know captions, and back?

In one space it should not matter which modality a classifier was fitted on. A linear classifier is
fitted on the training split's pictures (I) or main captions (T) and scored on the dataset's
pictures and on its captions: accuracy by (fitted on, scored on), and how much of the accuracy
within a modality is left across. Our choice; the classes are those of the linear probe.
"""

from typing import Any

import numpy as np

from oner_jax.evals.inputs.features import PRIMARY
from oner_jax.evals.inputs.task_inputs import Material
from oner_jax.evals.metrics.measurement import Measurement, absent, measured
from oner_jax.evals.tasks.probe import NO_TRAINING, choose_strength, fit


def transfer_task(material: Material) -> dict[str, Any]:
    """`FITTED_to_SCORED` accuracies and `kept_across`, in the primary space."""
    shared = material.shared_classes
    if shared is None:
        return absent(NO_TRAINING)
    number, own = len(shared.names), material.spaces[PRIMARY]
    train = {
        "image": material.training_pictures[PRIMARY],
        "text": material.training_captions[PRIMARY],
    }
    test = {
        "image": own.image[shared.test],
        "text": own.text[material.corpus.gallery.main][shared.test],
    }
    hits = {}
    for fitted, features in train.items():
        strength, start = choose_strength(features, shared.train_classes, number, shared.validation)
        classifier = fit(features, shared.train_classes, number, strength, start)
        for scored, vectors in test.items():
            answers = np.argmax(classifier(vectors), axis=1)
            hits[f"{fitted}_to_{scored}"] = answers == shared.test_classes
    found = {name: Measurement.mean(own_hits, 1.0 / number) for name, own_hits in hits.items()}
    found["kept_across"] = _kept(hits, 1.0 / number)
    return {**measured({PRIMARY: found}), "classes": number, "target": shared.kind}


def _kept(hits: dict[str, np.ndarray], chance: float) -> Measurement:
    """Accuracy across modalities over accuracy within, both above chance; 0 is no transfer."""
    across, within = (
        (hits[first].astype(np.float64) + hits[second]) / 2
        for first, second in (
            ("image_to_text", "text_to_image"),
            ("image_to_image", "text_to_text"),
        )
    )

    def kept(counts: np.ndarray) -> np.ndarray:
        total = counts.sum(axis=1)
        above = counts @ within / total - chance
        apart = np.where(above > 0, above, np.nan)  # nothing within: nothing to keep
        return (counts @ across / total - chance) / apart

    value = float(kept(np.ones((1, len(across))))[0])
    return Measurement.of(value, kept, len(across), 0.0)
