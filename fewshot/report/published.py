"""The table of published results beside ours: each with its verdict, its paper, and what readers filter it by."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from baselines import published
from fewshot.report.rendering import paper_link

VERDICTS = ("above", "within", "below", "not comparable")
_IDENTITY = [
    *("way", "shot", "method", "published_variant", "published_backbone", "published_size", "source", "league"),
    *("published_protocol", "published"),
]


def published_rows(comparison: pd.DataFrame) -> list[dict[str, Any]]:
    """Each published result of fewshot.comparison.compare once, the best of each way and shot first, as text.

    It stands beside the best of our results that it compares with; a result that compares with none stands beside none,
    and `reasons` says why. verdict: where our result lies. link: the address of the paper, or ''.
    """
    known = published()
    papers = known[known["arxiv"] != ""].drop_duplicates("paper").set_index("paper")["arxiv"]
    families = known.drop_duplicates(["method", "paper"]).set_index(["method", "paper"])["family"]
    rows = comparison.assign(apart=comparison["verdict"] == "not comparable", count=comparison["reasons"].map(len))
    # the best of ours that compares; or the one with the fewest reasons against it
    rows = rows.sort_values(["apart", "count", "difference"], ascending=[True, True, False], kind="stable")
    rows = rows.drop_duplicates(_IDENTITY)
    rows = rows.sort_values(["way", "shot", "published"], ascending=[True, True, False], kind="stable")
    return [
        {
            "task": f"{row['way']}-way {row['shot']}-shot",
            "method": row["method"] + (f" ({row['published_variant']})" if row["published_variant"] else ""),
            "paper": row["source"],
            "link": paper_link(papers.get(row["source"], "")),
            "backbone": row["published_backbone"] or "not stated",
            "published": _printed(row),
            "ours": "" if row["apart"] else f"{row['label']}: {row['accuracy']:.2f}",
            "difference": "" if row["apart"] else _signed(row),
            "verdict": row["verdict"],
            "reasons": "; ".join(row["reasons"]),
            "league": row["league"],
            "family": families.get((row["method"], row["source"]), "other"),
        }
        for row in rows.to_dict("records")
    ]


def _printed(row: Mapping[Any, Any]) -> str:
    half = f" ± {row['published_ci95']:.{row['decimals']}f}" if row["reckoned_from"] == "interval" else ""
    return f"{row['published']:.{row['decimals']}f}{half}"


def _signed(row: Mapping[Any, Any]) -> str:
    return f"{row['difference']:+.2f} ± {row['difference_ci95']:.2f}".replace("-", "−")
