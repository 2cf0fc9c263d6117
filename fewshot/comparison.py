"""Our results beside the published ones of the same data set, split, way and shot, with a verdict and its reason."""

import numpy as np
import pandas as pd

from baselines import NOT_RUNNABLE, published
from fewshot.backbones import MIRRORED
from fewshot.learners.registry import LEARNERS
from fewshot.records import ALIKE, CELL, UNIFORM, labels, summarised
from fewshot.tables import CHALLENGES, Sheet

_PUBLISHED = [
    "published_protocol",
    "method",
    "published_variant",
    "published_backbone",
    "published_size",
    "league",
    "published",
    "published_ci95",
    "published_episodes",
    "source",
    "note",
]
COLUMNS = [
    *["run", *ALIKE, "kind", *CELL, "label", "accuracy", "ci95", "interval", "episodes_ci95"],
    *_PUBLISHED,
    *["reckoned_ci95", "reckoned_from", "decimals", "difference", "difference_ci95", "verdict", "reasons"],
]
ASSUMED = 1000  # published episodes if a source does not state their number
_NOTE = (
    "A cell is ours minus the published accuracy, in points: 'above' or 'below' if the difference is more than both"
    " 95 % intervals and the rounding leave open, else 'within'; cells that are not 'below' are bold. Our interval"
    " covers the draw of episodes and, if there are several training seeds, another training too. A published number"
    " without an interval gets the interval of as many episodes with our spread; * marks a number whose source does not"
    f" state how many, and {ASSUMED:,} are assumed"
)
_OTHER_NOTE = "A cell is ours minus the published accuracy, in points, for orientation only"
_EACH_NOTE = (
    "The difference is ours minus the best published accuracy that compares, in points: 'above' or 'below' if the"
    " difference is more than both 95 % intervals and the rounding leave open, else 'within'; differences that are not"
    " 'below' are bold. The last columns count the comparable published numbers above ours, within the intervals, and"
    " below ours"
)
_SIDES = {"above ours": "below", "within": "within", "below ours": "above"}  # the verdict says where ours lies
_WIDE = 5  # learners beside each other in a table
_MOST = 8  # rows of each way and shot that are not comparable, if only the nearest are shown


def compare(
    results: pd.DataFrame, literature: pd.DataFrame | None = None, run: str = "", kind: str = UNIFORM
) -> pd.DataFrame:
    """A row for each of our results and each published one of its data set, kind of episodes, way and shot: COLUMNS.

    results     tidy rows of a run; those of several training seeds count as one, with the interval over seeds
    literature  what to compare with, in the form of baselines.published(), which is the default
    run         what the run is called
    kind        the kind of the episodes of all `results`; published numbers of other kinds are left out

    difference is our accuracy minus the published one, in points. The half-width of the difference combines the
    intervals, which are independent, with half a unit of the last printed digit:
    sqrt(episodes^2 + seeds^2 + theirs^2) + rounding, with seeds = 0 for one training. theirs is reckoned_ci95: the
    published_ci95 (reckoned_from 'interval'), else 1.96 s / sqrt(n) with our standard deviation s over the episodes,
    and n the published_episodes ('episodes') or, if a source does not state them, 1,000 ('assumed'). The verdict is
    'above' or 'below' if the difference is larger than its half-width, else 'within'. A row of two numbers that were
    measured differently is 'not comparable', and its list of reasons says why; if the published number is of another
    split of the data set, published_protocol differs from protocol.
    """
    run = run.encode("utf-8", "replace").decode()  # the name of a folder need not be UTF-8
    ours = summarised(results)
    theirs = published() if literature is None else literature
    theirs = theirs[theirs["kind"] == kind].drop(columns="kind").astype({"way": "int64", "shot": "int64"})
    theirs = theirs.rename(
        columns={
            "protocol": "published_protocol",
            "variant": "published_variant",
            "backbone": "published_backbone",
            "image_size": "published_size",
            "accuracy": "published",
            "ci95": "published_ci95",
            "episodes": "published_episodes",
            "paper": "source",
        }
    )
    # a source prints all its numbers with one decimal or all with two; numbers in a table lose that
    whole = (theirs["published"] * 10).round(3) % 1 == 0
    theirs["decimals"] = np.where(whole.groupby([theirs["dataset"], theirs["source"]]).transform("all"), 1, 2)
    ours = ours.assign(run=run, kind=kind, label=labels(ours, seeds=False))
    rows = ours.merge(theirs, on=["dataset", *CELL])
    printed, stated = rows["published_ci95"].notna(), rows["published_episodes"].notna()
    rows["reckoned_from"] = np.select([printed, stated], ["interval", "episodes"], "assumed")
    reckoned: pd.Series = 1.96 * rows["spread"] / np.sqrt(rows["published_episodes"].fillna(ASSUMED).astype(float))
    rows["reckoned_ci95"] = rows["published_ci95"].where(printed, reckoned)
    seeds = rows["ci95"].where(rows["interval"] == "seeds", 0)
    widths = np.sqrt(rows["episodes_ci95"] ** 2 + seeds**2 + rows["reckoned_ci95"] ** 2)
    widths += 0.5 * 10.0 ** -rows["decimals"]
    rows["difference"], rows["difference_ci95"] = rows["accuracy"] - rows["published"], widths
    rows["reasons"] = [_reasons(row) for row in rows.to_dict("records")]
    sides = [rows["difference"] > widths, rows["difference"] < -widths]
    verdicts = pd.Series(np.select(sides, ["above", "below"], "within"), index=rows.index, dtype=object)
    rows["verdict"] = verdicts.where(rows["reasons"].map(len) == 0, "not comparable")
    return rows.reindex(columns=COLUMNS)


def printed(comparison: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compare` for a csv file: numbers with four decimals, the reasons as one text."""
    reasons = comparison["reasons"].map("; ".join)
    return comparison.round(4).assign(reasons=reasons).rename(columns={"reasons": "reason"})


def sheets(comparison: pd.DataFrame, every: bool = False) -> list[Sheet]:
    """For each run, way and shot a table of the comparable published numbers, the best first; ours are its columns.

    If none is comparable, the table holds the nearest numbers with the reasons. If there are more of our learners than
    a table has columns for, the learners are the rows of one table, each beside the best published number that it
    compares with. With `every` all numbers are there: numbers that are not comparable come with the reasons, numbers of
    another split in tables of their own, and several tables share the learners, the best first.
    """
    made = []
    for (run, kind, way, shot), rows in comparison.groupby(["run", "kind", *CELL], sort=False):
        first = rows.iloc[0]
        name = f"{f'{run}: ' if run else ''}{first.dataset} ({first.protocol}), {way}-way {shot}-shot"
        name += f", {kind}" if kind != UNIFORM else ""
        ours = rows.drop_duplicates("label").set_index("label")[["accuracy", "ci95"]]
        if len(ours) <= _WIDE:
            made += _beside(rows, ours, name, every)
            continue
        ours = ours.sort_values("accuracy", ascending=False, kind="stable")
        if not every and (rows["verdict"] != "not comparable").any():
            made.append(_best_of_each(rows, ours, name))
            continue
        for start in range(0, len(ours) if every else 1, _WIDE):
            group = ours[start : start + _WIDE]
            ranks = f"our learners {start + 1} to {start + len(group)} of {len(ours)}"
            made += _beside(rows[rows["label"].isin(group.index)], group, f"{name}, {ranks}", every)
    return made


def summary(comparison: pd.DataFrame) -> str:
    """One sentence: how many of the comparable published results lie above ours, within the intervals, and below.

    Each published result counts once, beside the best of our results that it compares with.
    """
    if comparison.empty:
        return "There are no published numbers of this data set, way and shot to compare with."
    of_one = [name for name in _PUBLISHED if name != "note"]
    cells = comparison.groupby(["dataset", "kind", *CELL, *of_one], dropna=False)
    every = cells.ngroups
    comparable = comparison[comparison["verdict"] != "not comparable"].sort_values("difference", kind="stable")
    best = comparable.drop_duplicates(["dataset", "kind", *CELL, *of_one], keep="last")["verdict"]
    if best.empty:
        return f"None of the {every:,} published results of these data sets, ways and shots is comparable with ours."
    # the verdict says where ours lies
    above, within, below = ((best == verdict).sum() for verdict in ("below", "within", "above"))
    return (
        f"Of the {len(best):,} comparable published results, ours lies below {above:,}, within the intervals of"
        f" {within:,} and above {below:,}; each is beside the best of our results that it compares with, and"
        f" {every - len(best):,} others are not comparable."
    )


def best_comparable(rows: pd.DataFrame) -> pd.Series | None:
    """Of the rows of `compare` the one with the highest published number that compares; None if none does."""
    comparable = rows[rows["verdict"] != "not comparable"]
    if comparable.empty:
        return None
    return comparable.sort_values(["published", "difference"], ascending=False, kind="stable").iloc[0]


def _best_of_each(rows: pd.DataFrame, ours: pd.DataFrame, name: str) -> Sheet:
    """A table with a row for each of our labels: our result from `ours` (accuracy and ci95 by label), the best
    published one that it compares with, the difference, and how many of the comparable ones lie on each side."""
    made = {}
    for label, own in ours.iterrows():
        same = rows[rows["label"] == label]
        made[label] = {
            "best comparable": "–",
            "accuracy": f"{own['accuracy']:.2f} ± {own['ci95']:.2f}",
            "difference": "–",
            **{side: str((same["verdict"] == verdict).sum()) for side, verdict in _SIDES.items()},
        }
        if (best := best_comparable(same)) is not None:
            variant = f" ({best['published_variant']})" if best["published_variant"] else ""
            printed = f"{best['published']:.{best['decimals']}f}"
            made[label]["best comparable"] = f"{best['method']}{variant}, {best['source']}: {printed}"
            made[label]["difference"] = f"{best['difference']:+.2f} {best['verdict']}".replace("-", "−")
    cells = pd.DataFrame.from_dict(made, orient="index").rename_axis("learner")
    bold = pd.DataFrame(False, index=cells.index, columns=cells.columns)
    bold["difference"] = cells["difference"].str.contains("above|within")
    return Sheet("", f"{name}, the best comparable number for each learner", cells, bold, _EACH_NOTE, words=1)


def _beside(rows: pd.DataFrame, ours: pd.DataFrame, name: str, every: bool) -> list[Sheet]:
    """The tables of one run, way and shot for the learners in `ours`."""
    comparable = rows["verdict"] != "not comparable"
    same, apart = rows[comparable], rows[~comparable]
    here = apart["published_protocol"] == apart["protocol"]
    kinds = [(same, "comparable", _NOTE)]
    if every:
        kinds += [(apart[here], "measured differently", _OTHER_NOTE), (apart[~here], "another split", _OTHER_NOTE)]
    elif not len(same):
        kinds += [(_nearest(apart), "nothing is comparable; nearest", _OTHER_NOTE)]
    return [_sheet(part, ours, f"{name}, {kind}", note) for part, kind, note in kinds if len(part)]


def _sheet(rows: pd.DataFrame, ours: pd.DataFrame, caption: str, note: str) -> Sheet:
    """A table with a column for each of our labels: first our own results from `ours` (accuracy and ci95 by label),
    then a row for each published number."""
    marks = rows["verdict"].where(rows["verdict"] != "not comparable", "")
    rows = rows.assign(
        number=rows.groupby(_PUBLISHED, sort=False, dropna=False).ngroup(),
        theirs=rows["method"] + (" (" + rows["published_variant"] + ")").where(rows["published_variant"] != "", ""),
        printed=[
            f"{mean:.{decimals}f}" + (f" ± {half:.{decimals}f}" if way == "interval" else "*" * (way == "assumed"))
            for mean, half, way, decimals in zip(
                *(rows[name] for name in ("published", "published_ci95", "reckoned_from", "decimals"))
            )
        ],
        cell=[
            f"{difference:+.2f} {mark}".strip().replace("-", "−") for difference, mark in zip(rows["difference"], marks)
        ],
    ).sort_values("published", ascending=False, kind="stable")
    columns = [label for label in ours.index if (rows["label"] == label).any()]
    cells = rows.pivot(index="number", columns="label", values="cell").reindex(rows["number"].unique())[columns]
    theirs = rows.drop_duplicates("number").set_index("number")
    words = theirs[["source", "published_backbone"]].set_axis(["source", "backbone"], axis=1).replace("", "–")
    told = rows["reasons"].map("; ".join)
    reasons = told.groupby(rows["number"]).agg(lambda several: " / ".join(dict.fromkeys(several)))
    if reasons.any():
        words["why not comparable"] = reasons
    cells = pd.concat([words, theirs[["printed"]].set_axis(["published"], axis=1), cells], axis=1).fillna("–")
    own = {label: f"{ours.accuracy[label]:.2f} ± {ours.ci95[label]:.2f}" for label in columns}
    cells = pd.concat([pd.DataFrame([dict.fromkeys(cells.columns, "") | own]), cells])
    cells.index = pd.Index(["ours", *theirs["theirs"]], name="method")
    bold = cells.apply(lambda column: column.str.endswith(" above") | column.str.endswith(" within"))
    return Sheet("", caption, cells, bold, note, words=words.shape[1])


def _nearest(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the _MOST nearest published numbers: by split, kind of backbone, number of reasons, accuracy."""
    number = rows.groupby(_PUBLISHED, sort=False, dropna=False).ngroup()
    kinds = [rows[name].str.partition("-")[0] for name in ("published_backbone", "backbone")]
    ranked = rows.assign(
        number=number,
        other_split=rows["published_protocol"] != rows["protocol"],
        other_kind=kinds[0] != kinds[1],
        count=rows["reasons"].map(len),
        lower=-rows["published"],
    ).sort_values(["other_split", "other_kind", "count", "lower"], kind="stable")
    return rows[number.isin(ranked["number"].unique()[:_MOST])]


def _reasons(row: dict) -> list[str]:
    """Why two numbers must not be compared, the weightiest reason first; none if they may be."""
    theirs_transductive = row["league"] == "transductive"
    size, wanted = row["published_size"], row["image_size"]
    # the challenge sets people, programs and networks the same trials: it compares whole systems
    whole_systems = row["published_protocol"] == row["protocol"] in CHALLENGES
    reasons = [
        _split_reason(row["dataset"], row["published_protocol"], row["protocol"]),
        "transductive" if theirs_transductive and not row["transductive"] else "",
        "inductive" if row["league"] == "inductive" and row["transductive"] else "",
        *_knowledge_reasons(row),
        "" if whole_systems else _backbone_reason(row["published_backbone"], row["backbone"]),
        "" if whole_systems or pd.isna(size) or size == wanted else f"{size}x{size} pixels, ours {wanted}x{wanted}",
    ]
    return list(filter(None, reasons))


def _knowledge_reasons(row: dict) -> list[str]:
    """What only one of the two methods used, besides the base classes' images and a support set."""
    league = row["league"]
    theirs_external, theirs_text = league == "external-data", league == "class-names"
    return [
        "trained on more data" if theirs_external and not row["external"] else "",
        "ours trained on more data" if row["external"] and not theirs_external else "",
        "uses the names of classes" if theirs_text and not row["text"] else "",
        "ours uses the names of classes" if row["text"] and not theirs_text else "",
        "ours sees no support images" if not _sees_support(row) else "",
        "does not say whether it is transductive" if league == "not-stated" else "",
    ]


def _sees_support(row: dict) -> bool:
    """Whether a learner of ours looks at support images; True for a learner that is not registered here."""
    cls = LEARNERS.get(row["learner"])
    return cls is None or row["variant"] not in cls.variants or cls.variants[row["variant"]].sees_support


def _split_reason(dataset: str, theirs: str, ours: str) -> str:
    if theirs == ours:
        return ""
    if theirs == "not-stated":
        return "split not stated"
    return f"another split: {theirs}" + (" (not in the suite)" if (dataset, theirs) in NOT_RUNNABLE else "")


def _backbone_reason(theirs: str, ours: str) -> str:
    """'' if the backbones are of one kind: conv4-linear is a Conv-4 whose last ReLU is left out."""
    plain = ours.removesuffix(MIRRORED)
    if theirs == plain.removesuffix("-linear"):
        return "" if plain == ours else "ours averages over mirror images"
    return {"": "backbone not stated", "none": "no network"}.get(theirs, f"backbone {theirs}, ours {ours}")
