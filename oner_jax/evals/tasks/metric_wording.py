"""What every measurement is called and what it means, in plain language, for the report."""

import dataclasses

from oner_jax.evals.inputs.corruptions import CORRUPTIONS
from oner_jax.evals.inputs.readouts import READ_OUTS

# Which values of a measurement are better. Neither: a control, to compare others with.
HIGHER, LOWER, NEITHER = "higher", "lower", "neither"
# How the names of controls end: measured without the model, the phrase, the prompt or the thing.
CONTROLS = (
    *("_other_phrase", "_centre", "_whole", "_salient"),
    *("_no_prompt", "_elsewhere", "_words_only"),
)


@dataclasses.dataclass(frozen=True)
class Wording:
    """Title of a measurement, what it says, what its reference (chance) is, what is better."""

    title: str
    meaning: str
    reference: str = ""
    better: str = HIGHER


RETRIEVAL = {
    f"{sought}_R@{k}": Wording(
        title=f"{question}, {among}",
        meaning=f"R@{k} from {start}: {right} among the first {k} answers"
        if k > 1
        else f"R@1 from {start}: the first answer is right",
    )
    for sought, question, start, right in (
        ("text", "picture → caption", "a picture", "one of its captions is"),
        ("image", "caption → picture", "a caption", "one of its pictures is"),
    )
    for k, among in ((1, "first answer"), (5, "first five"), (10, "first ten"))
}

ZEROSHOT = {
    "top1": Wording("name the picture, first guess", "zero-shot top-1 over all class names"),
    "top5": Wording("name the picture, five guesses", "zero-shot top-5 over all class names"),
    "mean_per_class": Wording(
        "… each class counted alike", "zero-shot top-1 of every class, averaged over classes"
    ),
}

PROBE = {
    "top1": Wording(
        "linear probe",
        "A linear classifier fitted on the training pictures' features; how strongly it is "
        "regularised was chosen on a fifth of them.",
    ),
    "mean_per_class": Wording("… each class counted alike", "averaged over classes"),
}

KNN = {
    f"knn_{k}": Wording(
        f"vote of {k} neighbours" if k > 1 else "the nearest neighbour's class",
        "Training pictures nearest by cosine.",
    )
    for k in (1, 5, 20)
}

FEW_SHOT = {
    f"shots_{shots}": Wording(
        f"{shots} pictures of each class" if shots > 1 else "one picture of each class",
        "The class whose few pictures have the nearest mean; the average of five draws.",
    )
    for shots in (1, 2, 4, 8)
}

TRANSFER = {
    f"{fitted}_to_{scored}": Wording(
        f"fitted on {names[fitted]}, scored on {names[scored]}",
        "A linear classifier of the probe's classes."
        if fitted == scored
        else "The same classifier on the other modality.",
    )
    for names in ({"image": "pictures", "text": "captions"},)
    for fitted in names
    for scored in names
} | {
    "kept_across": Wording(
        "kept across modalities",
        "Accuracy across modalities over accuracy within, both above chance: 100 % would mean that "
        "it does not matter which modality a classifier was fitted on.",
    )
}

ROBUSTNESS = {
    f"{kind}_{name}": Wording(f"{asked}: {title}", meaning)
    for kind, asked in (
        ("text", "picture → caption, first answer"),
        ("class", "name the picture, first guess"),
    )
    for name, title, meaning in (
        ("clean", "as they are", "The same pictures without corruption."),
        ("corrupted", "all corruptions", "Mean over all kinds and their five severities."),
        *(
            (kind_of, kind_of.replace("_", " "), "Mean over five severities.")
            for kind_of in CORRUPTIONS
        ),
    )
}

GEOMETRY = {
    "centroid_distance": Wording(
        "distance between the modalities",
        "How far the average picture lies from the average caption. Both live on a sphere of "
        "radius 1, so 2 is the most there can be and 0 means no gap.",
        "the same points with their labels dealt out at random",
        better=LOWER,
    ),
    "modality_variance": Wording(
        "share of all variance between the modalities",
        "The same distance in units of how spread out the points are. 100 % would mean that "
        "nothing but the modality moves a point.",
        "the same points with their labels dealt out at random",
        better=LOWER,
    ),
    "modality_classifier": Wording(
        "can a straight cut tell pictures from captions?",
        "Accuracy of a linear classifier on pairs it was not fitted on. 100 % means two islands, "
        "50 % means that nothing gives the modality away.",
        "a coin",
        better=LOWER,
    ),
    "pooled_text_R@1": Wording(
        "picture → caption, pictures in the way",
        "R@1 when all captions and all other pictures are candidates. With a gap, some other "
        "picture is always nearer and this stays at zero.",
        "a random ranking",
    ),
    "unpooled_text_R@1": Wording(
        "… without the pictures",
        "The same search among captions alone: the difference is what the gap costs.",
        "a random ranking",
    ),
    "pooled_image_R@1": Wording(
        "caption → picture, captions in the way",
        "The same the other way round.",
        "a random ranking",
    ),
    "unpooled_image_R@1": Wording(
        "… without the captions",
        "The same search among pictures alone.",
        "a random ranking",
    ),
    "cos_joint_image": Wording(
        "joint view ↔ its picture",
        "Mean cosine of the embedding of picture-and-caption to the picture alone. 1 means that "
        "the joint view is the picture.",
        "pairs that do not belong together",
        better=NEITHER,
    ),
    "cos_joint_text": Wording(
        "joint view ↔ its caption",
        "The same to the caption alone. The two should be close to each other.",
        "pairs that do not belong together",
        better=NEITHER,
    ),
    "change_other_caption": Wording(
        "joint view moves with another caption",
        "How far (1 − cosine) the joint view moves when the picture gets somebody else's caption. "
        "Near 0 would mean that the words are ignored.",
        "two unrelated joint views",
        better=NEITHER,
    ),
    "change_other_picture": Wording(
        "joint view moves with another picture",
        "The same for another picture under the same caption.",
        "two unrelated joint views",
        better=NEITHER,
    ),
    "alignment": Wording(
        "alignment",
        "Mean squared distance between a picture and its caption (Wang & Isola): lower is better.",
        "a picture and somebody else's caption",
        better=LOWER,
    ),
    "uniformity_image": Wording(
        "uniformity of pictures",
        "How evenly the pictures spread over the sphere (Wang & Isola): lower is more even, "
        "0 means all in one point.",
        "a perfectly even spread",
        better=LOWER,
    ),
    "uniformity_text": Wording(
        "uniformity of captions",
        "The same for the distinct captions.",
        "a perfectly even spread",
        better=LOWER,
    ),
}

_ON_GROUNDS = {
    "pointing": Wording(
        "pointing game",
        "The hottest point of the phrase's map lies in the box of the thing it names.",
        "a random point",
    ),
    "pointing_other_phrase": Wording(
        "… asked for something else",
        "The same boxes, but the map of a phrase that names nothing in the picture: what is left "
        "comes from things standing out.",
        "a random point",
    ),
    "pointing_any_object": Wording(
        "… on any of the things",
        "The hottest point lies in the box of some thing of the picture, right or wrong.",
        "a random point",
    ),
    "which_object": Wording(
        "which of the things?",
        "Among the boxes of the things in the picture, the right one is the hottest on average.",
        "one of the things at random",
    ),
    "which_object_other_phrase": Wording(
        "… asked for something else",
        "The same for a phrase that names nothing in the picture.",
        "one of the things at random",
    ),
    "box": Wording(
        "box found",
        "The box around the hot region overlaps the right one by half or more (IoU; MaxBoxAcc). "
        "The threshold is chosen on the pictures that are not scored.",
        "the same boxes dealt out at random",
    ),
    "box_other_phrase": Wording(
        "… asked for something else",
        "The same for a phrase that names nothing in the picture, its own threshold chosen.",
        "as above",
    ),
}

LOCALISATION = (
    _ON_GROUNDS
    | {
        "pointing_centre": Wording(
            "pointing: always the middle", "No model: the middle of the picture.", "a random point"
        ),
        "pointing_salient": Wording(
            "pointing: any thing at random",
            "No phrase: the middle of one of the things in the picture, drawn at random.",
            "a random point",
        ),
        "box_centre": Wording(
            "box: one around the middle",
            "No model: the size that is best on the pictures that are not scored.",
            "as above",
        ),
        "box_whole": Wording("box: the whole picture", "No model: everything.", "as above"),
    }
    | {
        f"photo_{name}": dataclasses.replace(
            words, title=f"in front of photographs: {words.title.removeprefix('… ')}"
        )
        for name, words in _ON_GROUNDS.items()
    }
    | {
        f"{prefix}{name}_by_{read_out}": Wording(
            f"{where}{words.title}: {row.title}",
            "The same read from the model in this way, chosen or not.",
            words.reference,
        )
        for prefix, where in (("", ""), ("photo_", "in front of photographs: "))
        for name, words in _ON_GROUNDS.items()
        if name in ("pointing", "which_object")
        for read_out, row in READ_OUTS.items()
    }
)

REASONING = {
    "name_place": Wording(
        "prompted by name: place among all names",
        "Where the name of the prompted thing stands in the list: 0 % is first, lower is better. "
        "The prompt is the answer, so compare with the same prompt where the thing is not shown.",
        "a random list",
        better=LOWER,
    ),
    "name_place_no_prompt": Wording(
        "… without a prompt",
        "The same things in the list of the scene alone.",
        "a random list",
    ),
    "name_place_elsewhere": Wording(
        "… at a scene that does not show it",
        "The same prompts at other scenes. Were it no worse than the first line, the model would "
        "read the words and not look.",
        "a random list",
    ),
    "name_gain": Wording(
        "rise in the list",
        "How far the thing rises when it is prompted for, as a part of the list.",
        "its rise when the prompt names something that is not in the scene",
    ),
    "name_flip": Wording(
        "rank flip rate",
        "Of the things that are not first among those in the scene, how many become first when "
        "their name is the prompt.",
        "a random order",
    ),
    "name_flip_elsewhere": Wording(
        "… when something else is prompted for",
        "How many become first under the name of a thing that the scene does not show.",
        "a random order",
    ),
    "category_place": Wording(
        "prompted by category: place among all names",
        "The prompt is only a category, such as “animals nature”; the thing of that category in "
        "the scene should rise.",
        "a random list",
        better=LOWER,
    ),
    "category_place_no_prompt": Wording(
        "… without a prompt",
        "The same things in the list of the scene alone.",
        "a random list",
    ),
    "category_place_words_only": Wording(
        "… the prompt without the scene",
        "The words alone know the category, but not which thing of it is shown.",
        "a random list",
    ),
    "category_flip": Wording(
        "rank flip rate by category",
        "Of the things that are not first among those in the scene, how many become first when "
        "their category is the prompt.",
        "a random order",
    ),
}

QUESTIONS = {
    "same_object": Wording(
        "the same thing by others",
        "A drawing and its name ask for other vendors' drawings of the thing. Either half could "
        "answer alone.",
    ),
    "same_vendor": Wording(
        "another thing in this style",
        "A drawing and the name of ANOTHER thing ask for that thing by the same vendor. The name "
        "does not know the vendor, the drawing not the thing.",
    ),
    "changed_word": Wording(
        "one word changed",
        "A picture and one word: right is what its caption describes with that word in place of "
        "one of its own.",
    ),
}

QUERIES = {
    "joint": "both as one input",
    "sum": "the sum of both",
    "image": "the picture alone",
    "text": "the words alone",
}

BY_TASK = {
    "retrieval": RETRIEVAL,
    "zeroshot": ZEROSHOT,
    "probe": PROBE,
    "knn": KNN,
    "few_shot": FEW_SHOT,
    "transfer": TRANSFER,
    "robustness": ROBUSTNESS,
    "geometry": GEOMETRY,
    "localisation": LOCALISATION,
    "reasoning": REASONING,
}


def wording_of(metric: str) -> Wording:
    """Return what to call the metric `task/dataset/name`; its own name where there are no words."""
    task, _, name = metric.split("/")
    if words := BY_TASK.get(task, {}).get(name):
        return words
    for kind, question in QUESTIONS.items():
        asked, _, found = name.removeprefix(f"{kind}_").partition("_")
        if name.startswith(f"{kind}_") and asked in QUERIES:
            return Wording(f"{question.title}: {QUERIES[asked]}, {found}", question.meaning)
    return Wording(f"{task}: {name}", "")


def better(metric: str) -> str:
    """Return which values of `task/dataset/name` are better: HIGHER, LOWER or NEITHER."""
    return NEITHER if metric.endswith(CONTROLS) else wording_of(metric).better
