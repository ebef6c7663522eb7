"""What a sweep found: its tables, and for the ladder the verdicts on the paper's claims.

A claim is a difference between two measurements of which the paper says the sign. Seeds are paired:
the same seed means the same order of examples, so the difference is taken seed by seed. The rule,
fixed before the runs: a claim is `replicated` where the 95 % interval of the mean difference
(Student's t over seeds) lies above `margin`, `not replicated` where it lies below, and `unclear`
where it holds both.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from oner_jax.evals.spread import Row, Spread


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


def _arms_differ(topic: str, statement: str, more: str, less: str, *metrics: str) -> list[Claim]:
    return [
        Claim(topic, f"{statement}: {metric}", Side(more, metric), Side(less, metric))
        for metric in metrics
    ]


CLAIMS = (
    Claim(
        "D1, the modality gap",
        "naive: the means of both modalities are further apart than for labels dealt out anew",
        Side("naive", GAP),
        Side("naive", GAP, chance=True),
    ),
    Claim(
        "D1, the modality gap",
        "naive: a linear classifier tells the modalities apart (45 points above chance)",
        Side("naive", CLASSIFIER),
        Side("naive", CLASSIFIER, chance=True),
        margin=0.45,
    ),
    Claim(
        "D1, the modality gap",
        "naive: R@1 in a gallery of pictures and captions is below R@1 among captions alone",
        Side("naive", UNPOOLED),
        Side("naive", POOLED),
    ),
    Claim(
        "D2, the joint input ignores text",
        "naive: IT lies nearer to I than to T",
        Side("naive", TO_IMAGE),
        Side("naive", TO_TEXT),
    ),
    *_arms_differ(
        "D2, the joint input ignores text",
        "another caption moves IT more under CMC than under naive ITC",
        "cmc",
        "naive",
        MOVED,
    ),
    *_arms_differ("XMC's repair", "XMC brings the means together", "naive", "xmc", GAP),
    *_arms_differ("XMC's repair", "XMC lowers the modality's share", "naive", "xmc", SHARE),
    *_arms_differ("XMC's repair", "XMC makes the classifier fail", "naive", "xmc", CLASSIFIER),
    *_arms_differ("XMC's repair", "XMC lifts pooled R@1", "xmc", "naive", POOLED),
    *_arms_differ("CMC's repair", "CMC brings the means together", "naive", "cmc", GAP),
    *_arms_differ("CMC's repair", "CMC lowers the modality's share", "naive", "cmc", SHARE),
    *_arms_differ("CMC's repair", "CMC lifts pooled R@1", "cmc", "naive", POOLED),
    *_arms_differ(
        "XMC's repair", "XMC retrieves better than ITC alone", "xmc", "naive", *RETRIEVAL
    ),
    *_arms_differ(
        "CMC's repair", "CMC retrieves better than ITC alone", "cmc", "naive", *RETRIEVAL
    ),
    *_arms_differ("XMC + CIC above ITC", "retrieval", "xmc_cic", "naive", *RETRIEVAL),
    *_arms_differ("CMC above XMC + CIC", "retrieval", "cmc", "xmc_cic", *RETRIEVAL),
    *_arms_differ("Masked modelling helps", "OneR above CMC alone", "oner", "cmc", *RETRIEVAL),
    *_arms_differ(
        "OneR at least as good as two towers",
        "OneR above two towers with ITC",
        "oner",
        "two_towers",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "OneR at least as good as two towers",
        "OneR above two towers with ITC + MIM + MLM",
        "oner",
        "two_towers_masked",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "OneR at least as good as two towers",
        "both without a predictor: OneR above two towers",
        "oner_no_predictor",
        "two_towers_no_predictor",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "OneR at least as good as two towers",
        "both without a predictor: one tower with ITC + CMC above two towers",
        "cmc_no_predictor",
        "two_towers_no_predictor",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "One head against two",
        "CMC brings one head above two heads",
        "cmc",
        "two_heads_cmc",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "Rival reading of XMC",
        "each modality against the mix above mix against mix",
        "xmc",
        "xmc_mixed",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "Rival reading of XMC",
        "each modality against the mix has the smaller gap",
        "xmc_mixed",
        "xmc",
        GAP,
    ),
    *_arms_differ(
        "The predictor's part in D1",
        "without a predictor naive ITC retrieves better",
        "naive_no_predictor",
        "naive",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "The predictor's part in D1",
        "without a predictor two towers with ITC retrieve better, too",
        "two_towers_no_predictor",
        "two_towers",
        *RETRIEVAL,
    ),
    *_arms_differ(
        "The predictor's part in D1",
        "without a predictor, too, CMC is above naive ITC",
        "cmc_no_predictor",
        "naive_no_predictor",
        *RETRIEVAL,
    ),
    *(
        Claim(
            "Cross-modal transfer",
            f"{label}: captions without pictures help: {metric}",
            Side(f"transfer_{heads}_captions", metric),
            Side(f"transfer_{heads}", metric),
        )
        for heads, label in (("one_head", "one head"), ("two_heads", "two heads"))
        for metric in RETRIEVAL
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
    Claim(
        "The predictor's part in D1",
        "naive without predictor: IT lies nearer to I than to T (D2)",
        Side("naive_no_predictor", TO_IMAGE),
        Side("naive_no_predictor", TO_TEXT),
    ),
)


POINTING = "localisation/val/pointing"
BOTH = "multimodal/val/same_vendor_joint_R@10"

PROPERTY_CLAIMS = (
    Claim(
        "Localisation",
        "OneR's hottest point is on the thing more often than a random point",
        Side("oner", POINTING),
        Side("oner", POINTING, chance=True),
    ),
    *(
        Claim("Localisation", statement, Side("oner", POINTING), Side(arm, f"{POINTING}{suffix}"))
        for statement, arm, suffix in (
            ("more often than the middle of the picture", "oner", "_centre"),
            ("more often than for a phrase that the scene does not show", "oner", "_other_phrase"),
            ("more often than that of two towers with ITC", "two_towers", ""),
            ("more often than that of two towers with ITC + MIM + MLM", "two_towers_masked", ""),
        )
    ),
    Claim(
        "Localisation",
        "both without a predictor: OneR's more often than that of two towers",
        Side("oner_no_predictor", POINTING),
        Side("two_towers_no_predictor", POINTING),
    ),
    Claim(
        "Localisation",
        "OneR without a predictor: more often than the middle of the picture",
        Side("oner_no_predictor", POINTING),
        Side("oner_no_predictor", f"{POINTING}_centre"),
    ),
    Claim(
        "Localisation",
        "OneR without a predictor: more often than for a phrase that the scene does not show",
        Side("oner_no_predictor", POINTING),
        Side("oner_no_predictor", f"{POINTING}_other_phrase"),
    ),
    Claim(
        "Text-guided reasoning",
        "OneR: a name lifts its thing to the top more often than at a picture without the thing",
        Side("oner", "reasoning/val/name_flip"),
        Side("oner", "reasoning/val/name_flip_elsewhere"),
    ),
    Claim(
        "Text-guided reasoning",
        "OneR: a category moves its thing forward (place without prompt less place with prompt)",
        Side("oner", "reasoning/val/category_place_no_prompt"),
        Side("oner", "reasoning/val/category_place"),
    ),
    *(
        Claim(
            "Multi-modal retrieval",
            f"OneR, same vendor but another thing: picture and phrase above {other}",
            Side("oner", BOTH),
            Side("oner", BOTH.replace("joint", query)),
        )
        for query, other in (
            ("image", "the picture alone"),
            ("text", "the phrase alone"),
            ("sum", "the sum of both"),
        )
    ),
)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """A claim with both sides, their difference by seed, and what follows."""

    claim: Claim
    more: Spread
    less: Spread
    difference: Spread

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the mean difference; nan below two seeds."""
        from scipy.stats import t

        number = self.difference.number
        if number < 2:
            return math.nan, math.nan
        reach = t.ppf(0.975, number - 1) * self.difference.deviation / math.sqrt(number)
        return self.difference.mean - reach, self.difference.mean + reach

    @property
    def word(self) -> str:
        """`replicated`, `not replicated` or `unclear`."""
        low, high = self.interval
        if low > self.claim.margin:
            return "replicated"
        return "not replicated" if high < self.claim.margin else "unclear"


def judge(
    rows: Sequence[Row], claims: Sequence[Claim] = (*CLAIMS, *PROPERTY_CLAIMS)
) -> list[Verdict]:
    """The verdict on every claim whose two sides were measured."""
    by_name = {row.name: row for row in rows}
    verdicts = []
    for claim in claims:
        more, less = _side(by_name, claim.more), _side(by_name, claim.less)
        if more is not None and less is not None:
            verdicts.append(Verdict(claim, more, less, _difference(more, less)))
    return verdicts


def _side(rows: Mapping[str, Row], side: Side) -> Spread | None:
    spread = rows[side.arm].primary(side.metric) if side.arm in rows else None
    if spread is None:
        return None
    if side.over:
        base = _side(rows, Side(side.over, side.metric))
        return None if base is None else _difference(spread, base)
    if side.chance:
        return dataclasses.replace(spread, values=(spread.chance,) * len(spread.values))
    return spread


def _difference(more: Spread, less: Spread) -> Spread:
    values = np.asarray(more.values) - np.asarray(less.values)
    return dataclasses.replace(more, values=tuple(values.tolist()), chance=0.0)


def verdict_table(verdicts: Sequence[Verdict]) -> str:
    """Markdown: one line a claim, with both sides, the difference and its interval."""
    header = ["topic", "claim", "more", "less", "difference", "95 % interval", "verdict"]
    lines = [header, ["---"] * len(header)]
    for verdict in verdicts:
        low, high = verdict.interval
        scale, digits = (100, 1) if verdict.difference.fraction else (1, 3)
        interval = (
            "n/a" if math.isnan(low) else f"{scale * low:.{digits}f} to {scale * high:.{digits}f}"
        )
        claim, difference = verdict.claim, verdict.difference
        sides = [str(verdict.more), str(verdict.less), str(difference)]
        lines.append([claim.topic, claim.statement, *sides, interval, verdict.word])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"
