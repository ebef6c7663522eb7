"""The paper's claims as data: differences between arms of the ladder whose sign the paper states.

Fixed before the runs of the tables in RESULTS.md. `oner_jax.claims.verdicts` judges them.
"""

import dataclasses
from collections.abc import Iterable


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a comparison: a metric of an arm, its chance value, or its gain over an arm."""

    arm: str
    metric: str
    chance: bool = False
    over: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """`more` exceeds `less` by more than `margin`."""

    topic: str
    statement: str
    more: Side
    less: Side
    margin: float = 0.0


RETRIEVAL = ("retrieval/val/text_R@10", "retrieval/val/image_R@10")
GAP = "geometry/val/centroid_distance"
SHARE = "geometry/val/modality_variance"
CLASSIFIER = "geometry/val/modality_classifier"
POOLED, UNPOOLED = "geometry/val/pooled_text_R@1", "geometry/val/unpooled_text_R@1"
TO_IMAGE, TO_TEXT = "geometry/val/cos_joint_image", "geometry/val/cos_joint_text"
MOVED = "geometry/val/change_other_caption"
POINTING = "localisation/val/pointing"
JOINT = "multimodal/val/same_vendor_joint_R@10"
FLIP, FLIP_ELSEWHERE = "reasoning/val/name_flip", "reasoning/val/name_flip_elsewhere"
PLACE, PLACE_NO_PROMPT = (
    "reasoning/val/category_place",
    "reasoning/val/category_place_no_prompt",
)


def _arms(topic: str, statement: str, more: str, less: str, metrics: Iterable[str]) -> list[Claim]:
    return [
        Claim(topic, f"{statement}: {metric}", Side(more, metric), Side(less, metric))
        for metric in metrics
    ]


def _within(topic: str, statement: str, arm: str, more: str, less: str) -> Claim:
    return Claim(topic, statement, Side(arm, more), Side(arm, less))


def _above_chance(topic: str, statement: str, arm: str, metric: str, margin: float = 0.0) -> Claim:
    return Claim(topic, statement, Side(arm, metric), Side(arm, metric, chance=True), margin)


def _gap(suffix: str, condition: str) -> list[Claim]:
    """D1 and its repair, with a predictor (arms `*_predictor`) or without."""
    naive = f"naive{suffix}"
    claims = [
        _above_chance(
            "D1, the modality gap",
            f"{condition}: under naive ITC the means of both modalities are further apart than for "
            "labels dealt out anew",
            naive,
            GAP,
        ),
        _above_chance(
            "D1, the modality gap",
            f"{condition}: under naive ITC a linear classifier tells the modalities apart "
            "(45 points above chance)",
            naive,
            CLASSIFIER,
            0.45,
        ),
        _within(
            "D1, the modality gap",
            f"{condition}: under naive ITC, R@1 among captions falls when images join the gallery",
            naive,
            UNPOOLED,
            POOLED,
        ),
    ]
    for arm, label in (("xmc", "XMC"), ("cmc", "CMC"), ("oner", "OneR")):
        topic, own = f"{label} closes the gap", f"{arm}{suffix}"
        claims += [
            *_arms(topic, f"{condition}: smaller than under naive ITC", naive, own, (GAP, SHARE)),
            *_arms(topic, f"{condition}: the classifier does worse", naive, own, (CLASSIFIER,)),
            *_arms(topic, f"{condition}: higher than under naive ITC", own, naive, (POOLED,)),
        ]
    return claims


def _retrieval(suffix: str, condition: str) -> list[Claim]:
    """The paper's order of objectives and of architectures."""
    pairs = (
        ("XMC above ITC", "xmc", "naive"),
        ("CMC above ITC", "cmc", "naive"),
        ("XMC + CIC above ITC", "xmc_cic", "naive"),
        ("CMC above XMC + CIC", "cmc", "xmc_cic"),
        ("Masked modelling helps: OneR above CMC", "oner", "cmc"),
        ("XMC in addition helps: OneR + XMC above OneR (ours)", "oner_xmc", "oner"),
        ("OneR at least as good as two towers", "oner", "two_towers"),
        ("OneR at least as good as two towers with MIM and MLM", "oner", "two_towers_masked"),
        ("One tower above two towers, ITC for both", "naive", "two_towers"),
        ("One head above two heads, ITC for both", "naive", "two_heads"),
        ("One head above two heads, CMC for both", "cmc", "two_heads_cmc"),
        ("XMC: a modality against the mix above mix against mix", "xmc", "xmc_mixed"),
    )
    return [
        claim
        for topic, more, less in pairs
        for claim in _arms(topic, condition, f"{more}{suffix}", f"{less}{suffix}", RETRIEVAL)
    ]


def _joint_view(suffix: str, condition: str) -> list[Claim]:
    """D2, the joint input ignores its text, and its repair."""
    topic, repair = "D2, the joint input ignores its text", "CMC repairs D2"
    naive, xmc, cmc = (f"{arm}{suffix}" for arm in ("naive", "xmc", "cmc"))
    return [
        *(
            _within(topic, f"{condition}, {label}: IT lies nearer to I than to T", *own)
            for label, own in (
                ("naive ITC", (naive, TO_IMAGE, TO_TEXT)),
                ("XMC", (xmc, TO_IMAGE, TO_TEXT)),
            )
        ),
        *(
            claim
            for arm, label in ((naive, "naive ITC"), (xmc, "XMC"))
            for claim in _arms(repair, f"{condition}: more than under {label}", cmc, arm, (MOVED,))
        ),
        *_arms(repair, f"{condition}: more than under naive ITC", cmc, naive, (TO_TEXT,)),
    ]


_CONDITIONS = (("", "no predictor"), ("_predictor", "predictor"))

CLAIMS = (
    *(claim for condition in _CONDITIONS for claim in _gap(*condition)),
    *(claim for condition in _CONDITIONS for claim in _retrieval(*condition)),
    *(claim for condition in _CONDITIONS for claim in _joint_view(*condition)),
    *(
        claim
        for arm in ("naive", "xmc", "cmc", "oner", "two_towers")
        for claim in _arms(
            "The predictor's part in D1",
            f"{arm} retrieves better without a predictor than with one",
            arm,
            f"{arm}_predictor",
            RETRIEVAL,
        )
    ),
    *_arms("Against CLIP", "OneR above CLIP", "oner", "clip", RETRIEVAL),
    *(
        claim
        for heads, label in (("one_head", "one head"), ("two_heads", "two heads"))
        for claim in _arms(
            "Cross-modal transfer",
            f"{label}: captions without images help",
            f"transfer_{heads}_captions",
            f"transfer_{heads}",
            RETRIEVAL,
        )
    ),
    *(
        Claim(
            "Cross-modal transfer",
            f"they help one head more than two: {metric}",
            Side("transfer_one_head_captions", metric, over="transfer_one_head"),
            Side("transfer_two_heads_captions", metric, over="transfer_two_heads"),
        )
        for metric in RETRIEVAL
    ),
)


def _properties(arm: str, label: str) -> list[Claim]:
    """What one space is good for: localisation, reasoning, retrieval by image and phrase."""
    return [
        _above_chance(
            "Localisation",
            f"{label}: the hottest point is on the thing more often than a random point",
            arm,
            POINTING,
        ),
        *(
            _within("Localisation", f"{label}: {statement}", arm, POINTING, f"{POINTING}{suffix}")
            for statement, suffix in (
                ("more often than the middle of the image", "_centre"),
                ("more often than for a phrase that the scene does not show", "_other_phrase"),
            )
        ),
        *(
            claim
            for other, name in (("two_towers", "two towers"), ("clip", "CLIP"))
            for claim in _arms(
                "Localisation", f"{label}: more often than {name}", arm, other, (POINTING,)
            )
        ),
        _within(
            "Text-guided reasoning",
            f"{label}: a name lifts its thing to the top more often than at an image without it",
            arm,
            FLIP,
            FLIP_ELSEWHERE,
        ),
        _within(
            "Text-guided reasoning",
            f"{label}: a category moves its thing forward (place without prompt less place with)",
            arm,
            PLACE_NO_PROMPT,
            PLACE,
        ),
        *(
            _within(
                "Multi-modal retrieval",
                f"{label}, same vendor, another thing: image and phrase above {other}",
                arm,
                JOINT,
                JOINT.replace("joint", query),
            )
            for query, other in (
                ("image", "the image only"),
                ("text", "the phrase only"),
                ("sum", "the sum of both"),
            )
        ),
    ]


PROPERTY_CLAIMS = (*_properties("oner", "OneR"), *_properties("oner_xmc", "OneR + XMC"))
