"""The accuracies that papers and repositories published, each with its split protocol, league and source."""

import collections
from pathlib import Path
from typing import Any

import pandas as pd

from episodes.errors import unknown_name

FAMILIES = (
    "closed-form",
    "cosine-classifier",
    "fine-tuning",
    "generative",
    "graph",
    "human",
    "matching",
    "meta-learning",
    "metric-loss",
    "nearest-neighbour",
    "other",
    "prototypical",
    "relation",
    "siamese",
    "transfer",
)
LEAGUES = ("inductive", "transductive", "external-data", "class-names", "not-stated")
_META_DATASET = (
    *("aircraft", "cub", "dtd", "fungi", "ilsvrc_2012", "mscoco", "omniglot", "quickdraw", "traffic_sign"),
    "vgg_flower",
)
_META_DATASET_REASONS = {
    "meta-dataset-imagenet": "its networks train on 712 classes of ImageNet, which the suite does not have",
    "meta-dataset-all": "its networks train on eight data sets, of which the suite does not have most",
    "meta-dataset-test": "its episodes share no image, and the suite draws each episode by itself",
}
# split protocols of published numbers that the suite does not have, by data set and name, and why it does not
NOT_RUNNABLE = {
    **{
        (dataset, protocol): reason
        for protocol, reason in _META_DATASET_REASONS.items()
        for dataset in _META_DATASET
        if (dataset, protocol) != ("ilsvrc_2012", "meta-dataset-test")
    },
    ("cub", "feat"): "its birds are cut out and its classes split at random, and the suite has no list of them",
    ("cub", "not-stated"): "the source does not say how it splits the classes",
    ("mini_imagenet", "vinyals-80-20"): "its 80 and 20 classes are of another list, and leave none for validation",
    ("omniglot", "lake-oneshot-minimal"): "the source prints one number for the two minimal sets together",
    ("omniglot", "lake-within-alphabet"): "its test episodes are drawn otherwise than the listed ones of the suite",
}
# the backbones of published numbers that the suite has under the same name; 'none' is for methods without a network
BACKBONES = ("conv4", "conv4-32", "conv4-128", "conv4-strided", "none", "resnet10", "resnet12", "resnet18", "wrn28_10")

_FILE = Path(__file__).with_name("published.csv")
NUMBERS = {  # the columns that hold numbers
    "image_size": "Int64",
    "way": "Int64",
    "shot": "Int64",
    "query": "Int64",
    "episodes": "Int64",
    "accuracy": "float64",
    "ci95": "float64",
    "year": "Int64",
}
_CONDITIONS = ["dataset", "protocol", "kind", "league"]  # what numbers share that may stand in one column
_CLOSED = {"dataset": "data set", "family": "family", "league": "league"}


def published(dataset: str | None = None, protocol: str | None = None, **columns: Any) -> pd.DataFrame:
    """The published numbers: a row for each data set, split protocol, kind, method, variant, backbone, way and shot.

    columns  the values to keep in any column, one or several: way=5, family=["siamese", "matching"], year=range(2019,
             2027)

    protocol         the split protocol: how classes are split and episodes drawn. Two numbers compare only if their
                     split protocol is the same. A split protocol that the suite has is called by the suite's name for
                     it. The suite lacks the others, and NOT_RUNNABLE says why: lake-oneshot-minimal (Omniglot,
                     both sets of five background alphabets), lake-within-alphabet (the characters of an episode are
                     of one alphabet), vinyals-80-20 (miniImageNet, 80 and 20 other classes), feat
                     (CUB, birds cut out, split by chance), meta-dataset-imagenet and meta-dataset-all (test classes
                     of Meta-Dataset, trained on ImageNet or on all its data sets), meta-dataset-test (the same test
                     classes and networks from elsewhere), not-stated
    kind             the kind of the episodes, as the test protocol `kinds` calls it: uniform, dirichlet:2, or any; the
                     columns way and shot are empty for any, whose episodes have ways and shots of their own
    variant          what tells rows of one method apart
    family           one of FAMILIES
    backbone         the suite's name if the suite has the backbone; 'none' for no network, '' if none is stated
    query, episodes  test queries of a class, and test episodes
    accuracy, ci95   in percent; the half-width of the interval as it was printed
    league           one of LEAGUES, never to be put in one column: transductive if queries are labelled together or
                     share their batch statistics, external-data if the method trained on images of other data sets,
                     class-names if the method used the text of class names
    method_in_suite  the suite's learner of the same method, '' if the suite has none
    paper, title     who printed the number; arxiv is its arXiv number, or another one with its kind before it
    read_from        where we read the number; the note says 'quoted by' if that source quotes the number
    note             an oddity of the number, and which other source has another number

    These are other people's numbers, quoted; the suite's own come from runs alone. Raises InputError for an
    unknown column, and for a data set, family or league that no row has.

    >>> rows = published("omniglot", "vinyals", way=20, shot=1, method="Prototypical Networks", league="inductive")
    >>> rows[["accuracy", "paper"]].to_numpy().tolist()[0]
    [96.0, 'Snell et al. 2017']
    """
    every = kept = read_table(_FILE)
    for column, wanted in {"dataset": dataset, "protocol": protocol, **columns}.items():
        if column not in every:
            raise unknown_name("column of the published numbers", column, every.columns)
        if wanted is None:
            continue
        values = [wanted] if isinstance(wanted, str | int | float) else list(wanted)
        known = set(every[column])
        strange = [str(value) for value in values if column in _CLOSED and value not in known]
        if strange:
            raise unknown_name(_CLOSED[column], strange[0], known)
        kept = kept[kept[column].isin(values)]
    return kept.reset_index(drop=True)


def read_table(path: Path) -> pd.DataFrame:
    """The rows of a csv file of published numbers: text, and the numbers of NUMBERS, missing if their cell is empty."""
    return pd.read_csv(
        path,
        dtype=collections.defaultdict[str, str | type[str]](lambda: str, NUMBERS),
        keep_default_na=False,
        na_values={column: [""] for column in NUMBERS},
    )


def best(dataset: str | None = None, protocol: str | None = None, **columns: Any) -> pd.DataFrame:
    """The highest number of each data set, split protocol, kind, league, family of backbones, way and shot.

    The arguments choose rows as those of `published` do. A column `backbones` has the family, the part of the
    backbone's name before its first hyphen: conv4 for conv4-32 and conv4-128. Of equal numbers the first stays.
    """
    rows = published(dataset, protocol, **columns)
    rows = rows.assign(backbones=rows["backbone"].str.partition("-")[0])
    cells = rows.groupby([*_CONDITIONS, "backbones", "way", "shot"], dropna=False)
    return rows.loc[cells["accuracy"].idxmax()].reset_index(drop=True)


def why_not_runnable(rows: pd.DataFrame) -> pd.Series:
    """Why the suite cannot repeat each of these published rows, the weightiest reason; '' for a row that it can.

    A row can be repeated if the suite has its split protocol, its method as a learner, and its backbone.
    """

    def reason(row: dict) -> str:
        if (row["dataset"], row["protocol"]) in NOT_RUNNABLE:
            return NOT_RUNNABLE[row["dataset"], row["protocol"]]
        if not row["method_in_suite"]:
            return "the suite has no learner of this method"
        if not row["backbone"]:
            return "the source does not state the backbone"
        return "" if row["backbone"] in BACKBONES else "the suite does not have this backbone"

    return pd.Series([reason(row) for row in rows.to_dict("records")], index=rows.index, dtype=object)
