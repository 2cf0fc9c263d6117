"""Tables as LaTeX for a paper, of one column or of two, and the papers of the learners as BibTeX."""

import dataclasses
import functools
import itertools
import re
import textwrap
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from baselines import papers, published
from fewshot.learners.registry import LEARNERS, traits_of
from fewshot.tables import Sheet, groups, widest

_SIGNS = str.maketrans(
    {
        **{"±": r"$\pm$", "−": "$-$", "–": "--", "×": r"$\times$", "<": "$<$", ">": "$>$", "|": "$|$"},
        **{character: f"\\{character}" for character in "%&_#${}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}", '"': "''"},
        **{"ß": r"{\ss}", "ø": r"{\o}", "Ø": r"{\O}", "æ": r"{\ae}", "Æ": r"{\AE}", "ł": r"{\l}", "Ł": r"{\L}"},
    }
)
_ACCENTS = set("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")  # of Computer Modern
_WIDTH = 80  # characters of \footnotesize in the width of a one-column article
_NAMES = 24  # of them, those that the first column has at least
_GAP = 2  # and those between two columns
_LINES = 36  # of a table on one page, beside its caption
_HEAD = r"""% Each of these tables stands alone. It fits papers of one column and papers of two.
% \usepackage{booktabs,tabularx}
"""
_CITING = "% \\bibliography{references}, the file beside this one\n"
_TABLE = r"""% {label}
\begin{{table*}}
\centering\footnotesize\setlength{{\tabcolsep}}{{3pt}}
\caption{{{caption}}}
\label{{tab:{label}}}
\begin{{tabularx}}{{\linewidth}}{{@{{}}{columns}@{{}}}}
\toprule
{heads} \\
\midrule
{rows}
\bottomrule
\end{{tabularx}}
\end{{table*}}
"""
_X = r">{\raggedright\arraybackslash\hspace{0pt}}X"  # words that wrap and are hyphenated
_REFERENCE = re.compile(r"([A-Z][\w'-]+)((?: et al\.)?|(?: and [A-Z][\w'-]+)) (\d{4})")  # in Traits.paper


@dataclasses.dataclass(frozen=True)
class Reference:
    """A paper as the traits of a learner name it; title, venue and arxiv are '' if the suite does not know them."""

    authors: str
    year: str
    title: str = ""
    venue: str = ""
    arxiv: str = ""

    @property
    def key(self) -> str:
        return re.sub(r"\W", "", self.authors.split()[0]).lower() + self.year


def page(made: Sequence[Sheet], name: str) -> str:
    """The tables of the run called `name`, with the best cells in bold and each learner's papers cited.

    A table with more columns or rows than a page has room for becomes several. The tables take as much width as the
    text has: one column of a paper of one column, both of a paper of two.
    """
    labels: Counter[str] = Counter()
    tables = []
    for sheet in made:
        label = re.sub(r"[^a-z0-9]+", "-", f"{name} {sheet.title}".lower()).strip("-")
        for part in _parts(sheet):
            labels[label] += 1
            tables.append(_table(part, label if labels[label] == 1 else f"{label}-{labels[label]}"))
    head = _HEAD + _CITING * any(map(_cited, made))
    return "\n".join([head, *tables]) if tables else ""


def bibliography(made: Sequence[Sheet]) -> str:
    """The papers that `page` cites as BibTeX; a title that the suite does not know is left out."""
    cited = {one.key: one for sheet in made for papers in _cited(sheet) for one in papers}
    return "\n".join(_entry(cited[key]) for key in sorted(cited))


def references(label: str) -> list[Reference]:
    """The papers of the learner that has this label in tables; none for a learner that the suite does not have.

    >>> [one.key for one in references("prototypical (euclidean), seed 0")]
    ['snell2017']
    """
    found = re.match(r"(?P<name>[^\s,]+)(?: \((?P<variant>[^)]*)\))?", label)
    if not found or (cls := LEARNERS.get(found["name"])) is None:
        return []
    variant = found["variant"] or ""
    paper = traits_of(cls, variant).paper if variant in cls.variants else ""
    made = [Reference(first + others, year) for first, others, year in _REFERENCE.findall(paper)]
    return [_titles().get(one.key, one) for one in made]


@functools.cache
def _titles() -> Mapping[str, Reference]:
    """The papers of the learners with their titles, by their keys."""
    found = {}
    rows = published()[["method_in_suite", "paper", "title", "arxiv"]].drop_duplicates()
    for name, paper, title, arxiv in rows.itertuples(index=False, name=None):
        ours = [one.paper for one in LEARNERS[name].variants.values()] if name in LEARNERS else []
        paper = paper.replace(" & ", " and ")
        if title and any(paper in one for one in ours):
            words = re.fullmatch(r"(.*?)(?: \(([^()]*)\))?", title)
            assert words is not None  # every text matches
            one = _reference(paper, words[1], words[2] or "", arxiv)
            if arxiv or one.key not in found:
                found[one.key] = one
    for paper, title, venue in papers().itertuples(index=False, name=None):
        one = _reference(paper, title, venue)
        found[one.key] = dataclasses.replace(one, arxiv=found[one.key].arxiv if one.key in found else "")
    return found


def _reference(paper: str, title: str, venue: str, arxiv: str = "") -> Reference:
    ((first, others, year),) = _REFERENCE.findall(paper)
    return Reference(first + others, year, title, venue, arxiv)


def _entry(one: Reference) -> str:
    fields = {
        "author": one.authors.replace(" et al.", " and others"),
        "title": one.title and f"{{{_escaped(one.title)}}}",  # its capitals stay
        "howpublished": _escaped(one.venue),
        "year": one.year,
    }
    if re.fullmatch(r"\d{4}\.\d{4,5}", one.arxiv):
        fields |= {"eprint": one.arxiv, "archiveprefix": "arXiv"}
    lines = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    return "\n".join([f"@misc{{{one.key},", *lines, "}\n"])


def _cited(sheet: Sheet) -> list[list[Reference]]:
    """The papers of each row, if the rows are learners."""
    index = sheet.cells.index
    return [references(str(label)) for label in index] if index.name == "learner" else []


def _parts(sheet: Sheet) -> Iterator[Sheet]:
    """The table, or the tables that share its columns and rows if a page has no room for all of them.

    The columns of words are one with the first column, since few wide columns wrap better than several narrow ones.
    """
    words = sheet.cells.iloc[:, : sheet.words].reset_index()
    names = [", ".join(filter(None, dict.fromkeys(row))) for row in words.to_numpy().tolist()]
    index = pd.Index(names, name=", ".join(map(str, words.columns)))
    cells = sheet.cells.iloc[:, sheet.words :].set_axis(index)
    best = sheet.best.reindex(columns=cells.columns, fill_value=False).set_axis(index)
    whole = sheet._replace(cells=cells, best=best, words=0)
    widths = [widest(cells[name]) + _GAP for name in cells]
    for columns in groups(widths, _WIDTH - _NAMES):
        left = max(_NAMES, _WIDTH - sum(widths[columns]))  # one column may be wider than a page
        lines = [len(textwrap.wrap(name, left)) or 1 for name in names]
        for rows in groups(lines, _LINES):
            yield whole._replace(cells=cells.iloc[rows, columns], best=best.iloc[rows, columns])
            whole = whole._replace(caption=f"{sheet.caption}, continued", note="")


def _table(sheet: Sheet, label: str) -> str:
    cells = sheet.cells.map(_escaped)
    cells = cells.where(~sheet.best, "\\textbf{" + cells + "}")
    names = [
        _escaped(str(name)) + (f"~\\cite{{{','.join(one.key for one in papers)}}}" if papers else "")
        for name, papers in itertools.zip_longest(sheet.cells.index, _cited(sheet))
    ]
    heads = [_escaped(str(sheet.cells.index.name))]
    heads += [_head(str(name), widest(column)) for name, column in sheet.cells.items()]
    text = f"{sheet.caption}. {sheet.note}." if sheet.note else f"{sheet.caption}."
    return _TABLE.format(
        caption=_escaped(text),
        label=label,
        columns=_X + "r" * cells.shape[1],
        heads=" & ".join(heads),
        rows="\n".join(f"{' & '.join([name, *row])} \\\\" for name, row in zip(names, cells.to_numpy())),
    )


def _head(name: str, width: int) -> str:
    """The head of a column of numbers, on lines that are no longer than its cells."""
    lines = [_escaped(line) for line in textwrap.wrap(name, width + 1, break_long_words=False)]
    return "".join(lines) if len(lines) < 2 else "\\shortstack[r]{" + r" \\ ".join(lines) + "}"


def _escaped(text: str) -> str:
    """Text as LaTeX prints it; a character that a plain article has no sign for becomes its base letter, or '?'."""
    plain = "".join(map(_printable, text)).translate(_SIGNS)
    return re.sub(r"(?<=\d)x(?=\d)", r"$\\times$", plain)


def _printable(character: str) -> str:
    if character.isascii() or ord(character) in _SIGNS:
        return character if character.isprintable() else " "
    base, *accents = list(unicodedata.normalize("NFKD", character))
    if not base.isascii():
        return "?"
    return character if ord(character) < 0x180 and set(accents) <= _ACCENTS else base
