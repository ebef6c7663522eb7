"""What every measurement is called and what it means, in plain language, for the report."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Wording:
    """Title of a measurement, what it says, and what its reference (chance) is."""

    title: str
    meaning: str
    reference: str = ""


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
}

GEOMETRY = {
    "centroid_distance": Wording(
        "distance between the modalities",
        "How far the average picture lies from the average caption. Both live on a sphere of "
        "radius 1, so 2 is the most there can be and 0 means no gap.",
        "the same points with their labels dealt out at random",
    ),
    "modality_classifier": Wording(
        "can a straight cut tell pictures from captions?",
        "Accuracy of a linear classifier on pairs it was not fitted on. 100 % means two islands, "
        "50 % means that nothing gives the modality away.",
        "a coin",
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
    ),
    "cos_joint_text": Wording(
        "joint view ↔ its caption",
        "The same to the caption alone. The two should be close to each other.",
        "pairs that do not belong together",
    ),
    "change_other_caption": Wording(
        "joint view moves with another caption",
        "How far (1 − cosine) the joint view moves when the picture gets somebody else's caption. "
        "Near 0 would mean that the words are ignored.",
        "two unrelated joint views",
    ),
    "change_other_picture": Wording(
        "joint view moves with another picture",
        "The same for another picture under the same caption.",
        "two unrelated joint views",
    ),
    "alignment": Wording(
        "alignment",
        "Mean squared distance between a picture and its caption (Wang & Isola): lower is better.",
        "a picture and somebody else's caption",
    ),
    "uniformity_image": Wording(
        "uniformity of pictures",
        "How evenly the pictures spread over the sphere (Wang & Isola): lower is more even, "
        "0 means all in one point.",
        "a perfectly even spread",
    ),
    "uniformity_text": Wording(
        "uniformity of captions",
        "The same for the distinct captions.",
        "a perfectly even spread",
    ),
}

BY_TASK = {"retrieval": RETRIEVAL, "zeroshot": ZEROSHOT, "geometry": GEOMETRY}

LOSSES = {
    "loss": "total loss",
    "loss/itc": "ITC: picture finds caption",
    "loss/cmc": "CMC: joint view finds the mix",
    "loss/mim": "MIM: hidden patches",
    "loss/mlm": "MLM: hidden words",
    "loss/mmm": "MMM: both, seeing both",
}

DATASETS = {
    "embedded:train": "the training pictures themselves",
    "embedded:val": "things that no training picture shows",
    "embedded:new_vendor": "things known from training, drawn by a vendor it never saw",
}

TRAINING_CURVES = {"learning_rate": "learning rate", "pairs_per_sec": "pairs per second"}

HEADLINES = {
    "text_R@1": "Shown a picture, it finds a right caption at the first attempt",
    "image_R@1": "Given a caption, it finds a right picture at the first attempt",
    "top1": "Shown a picture, it picks the right name at the first attempt",
}

INTRODUCTION = (
    "OneR trains a single transformer with a single output head on pictures and their captions. "
    "Both become points in one space, in which a picture should lie next to the words that "
    "describe it. This page shows how far one run has come, on pictures it was not trained on."
)

SPACE = (
    "One encoder can still keep pictures and words apart: two islands on the same map, with the "
    "joint view of a picture and its caption stuck to one of them. OneR is meant to mix them. The "
    "maps below flatten the space (t-SNE): every pair is three dots, one seen as a picture, one as "
    "a caption, one as both; thin lines join the dots of some pairs. Distances across a map mean "
    "little, neighbourhoods mean a lot."
)

EXAMPLES = (
    "Green marks a right answer. Random queries are drawn with a fixed seed, the same for every "
    "model; nobody chose them. Above them stand the captions that the model is most certain about "
    "(caption and picture prefer each other to all others), right or wrong."
)

CURVES = (
    "Each term of the objective by itself, averaged over one logging interval (thin) and over a "
    "twentieth of the run (thick). Contrast terms ask who belongs to whom within a batch; masked "
    "terms ask for what was hidden."
)

GUIDE = (
    (
        "Chance",
        "What blind guessing would score, computed exactly for this dataset. A number says "
        "something only beside it; “× chance” is their ratio.",
    ),
    (
        "Untrained",
        "The same network with its random starting weights. What it scores above chance comes from "
        "pixels and spelling, not from learning.",
    ),
    (
        "R@1, R@5, R@10",
        "Share of queries with a right answer among the first 1, 5 or 10 of all candidates. Equal "
        "captions count as one, and every picture that carries the caption is right. Ties count "
        "as misses.",
    ),
    (
        "Zero-shot top-1, top-5",
        "Naming the picture out of all class names, each written into several short sentences "
        "whose embeddings are averaged. No class was trained for.",
    ),
    (
        "± in the tables",
        "Half of a 95 % interval from the number of queries. Differences smaller than that are "
        "noise.",
    ),
    (
        "Backbone, momentum",
        "The same tests on other features of this model: the encoder before its output head, and "
        "the slowly moving average of the weights that serves as the teacher. The headline always "
        "uses the output of the trained weights, a choice made before training.",
    ),
)
