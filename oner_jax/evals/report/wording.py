"""The sentences of the report and of the overview, and what they call things."""

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
    "Green marks a right answer. Shown are the captions that the model is most certain about "
    "(caption and picture prefer each other to all others), right or wrong. Folded below them are "
    "queries that were drawn at random, with a fixed seed, the same for every model."
)

OVERVIEW = (
    "Every number with its 95 % interval (bootstrap over pictures). Green: the best checkpoint of "
    "a row; ↓: lower is better; ?: fewer than 30 cases, too few to judge. Curves: the line is the "
    "number, the band its interval, the dashed line chance."
)

DIFFERENCES = (
    "Differences on the same pictures, in percentage points where the number is a percentage. The "
    "interval is that of a paired bootstrap; a star says that it leaves out zero."
)

CLASSIFIERS = {"zeroshot": "zero-shot", "probe": "linear probe"}

CORRUPTED = {"text": "picture → caption, R@1", "class": "zero-shot top-1"}

FAILURES = (
    "Wrong answers that the model is most certain of: how much nearer the picture lies to the name "
    "it picks than to the right one. One picture for each kind of mistake."
)

CONFUSION = (
    "Rows are the right classes, columns the answers, as a share of the row; of many classes those "
    "that are confused most often."
)

PROPERTIES = (
    "What one encoder for both is meant to bring beside ordinary search: it sees where in a "
    "picture a phrase belongs, words turn it to one thing among several, and a picture and words "
    "together can ask a question. Scenes are composed of the dataset's own pictures, so it is "
    "known what stands where; nothing was trained on scenes or boxes."
)

LOCALISATION_EXPLAINED = (
    "Warm colours: places that are most like the phrase, from the coldest to the hottest of each "
    "map; the dot is the hottest point, the frame the right box. A map can be read from a model in "
    "several ways. The one shown, and measured in full, is best on every fourth scene; the table "
    "scores the other scenes. The scenes shown are the first ones in an order drawn by a fixed "
    "seed."
)

GROUNDS = {"plain": "on a plain ground", "photographs": "in front of photographs"}

REASONING_EXPLAINED = (
    "A scene and a prompt go in together; the lists rank the names of all things in the dataset by "
    "their closeness. Green without a prompt: anything in the scene; green with one: what was "
    "prompted for."
)

MULTIMODAL_EXPLAINED = (
    "The query is a picture and words, the answers are pictures. It is worth something where it "
    "finds more than the picture alone, the words alone, and the sum of their two embeddings."
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
        "Half of a 95 % interval: the number in a thousand datasets drawn from this one's pictures "
        "with repeats (bootstrap). Two models on the same pictures differ by less than both "
        "intervals suggest: the differences below them are paired.",
    ),
    (
        "↓, and numbers without × chance",
        "Where lower is better there is an arrow in place of a ratio to chance. Controls, which no "
        "direction makes better, have neither.",
    ),
    (
        "Too few cases",
        "Below 30 cases the interval is so wide that a number tells models of nothing apart.",
    ),
    (
        "Its backbone, its momentum",
        "The same tests on other features of this model: the encoder before its output head, and "
        "the slowly moving average of the weights that serves as the teacher. The headline always "
        "uses the output of the trained weights, a choice made before training.",
    ),
)
