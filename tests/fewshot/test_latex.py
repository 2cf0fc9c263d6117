"""LaTeX of tables: each compiles in a plain article of one column and of two, fits it, and cites what it shows."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest

from docs import tables as documents
from fewshot import comparison, latex
from fewshot.learners.registry import LEARNERS
from fewshot.run_folder import read_results
from fewshot.tables import Sheet

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
RUNS = sorted(path.parent for path in REFERENCE.glob("*/results.tex"))
_PAPER = r"""\documentclass[%s]{article}
\usepackage{booktabs,tabularx}
\begin{document}
%s
\end{document}
"""
_FAULT = re.compile(r"^(?:!|Overfull|LaTeX Warning: (?:Float too large|Label .* multiply|Reference)).*", re.MULTILINE)


@pytest.fixture
def faults(tmp_path):
    """What pdflatex finds wrong with a page in an article of one column and of two, 10 pt."""
    if not shutil.which("pdflatex"):
        pytest.skip("pdflatex is not installed")

    def found(text: str) -> list[str]:
        faults = []
        for columns in ("onecolumn", "twocolumn"):
            (tmp_path / f"{columns}.tex").write_text(_PAPER % (columns, text), encoding="utf-8")
            command = ["pdflatex", "-draftmode", "-interaction=nonstopmode", f"{columns}.tex"]
            subprocess.run(command, cwd=tmp_path, stdout=subprocess.DEVNULL, timeout=60)
            log = (tmp_path / f"{columns}.log").read_text(encoding="utf-8", errors="replace")
            assert "PDF statistics" in log, "the log is not whole"
            faults += [f"{columns}: {line}" for line in _FAULT.findall(log)]
        return faults

    return found


def sheet(names: list[str], heads: list[str], cell: str, words: int = 0, index: str = "learner") -> Sheet:
    cells = pd.DataFrame(cell, index=pd.Index(names, name=index), columns=heads)
    return Sheet("A table", "Of some data", cells, cells.map(lambda _: True), "A note", words)


def test_committed_tables_fit_both_kinds_of_papers(faults):
    assert faults("\n\\clearpage\n".join((run / "results.tex").read_text() for run in RUNS)) == []


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
def test_committed_tables_and_references_are_those_of_the_committed_rows(run):
    for name, text in documents.files_of(run).items():
        assert (run / name).read_text() == text, name


@pytest.mark.parametrize("name", ["quick-omniglot", "paper-omniglot"])
def test_comparisons_fit_with_their_verdicts(faults, name):
    found = comparison.compare(read_results(REFERENCE / name)[0], run=name)
    page = latex.page(comparison.sheets(found, every=True), "cmp")
    assert {verdict for verdict in ("above", "within", "below") if f" {verdict}" in page}
    assert faults(page.replace("\n\n", "\n\\clearpage\n")) == []


def test_the_comparison_of_many_learners_is_short_and_fits(faults):
    found = comparison.compare(read_results(REFERENCE / "quick-omniglot-all")[0], run="all")
    made = comparison.sheets(found)
    assert [len(one.cells) for one in made] == [22] * 4
    assert faults(latex.page(made, "cmp").replace("\n\n", "\n\\clearpage\n")) == []


def test_many_columns_and_rows_become_several_tables_that_fit(faults):
    wide = sheet(
        [f"learner_{i} (variant, long)" for i in range(80)], [f"{i} measures" for i in range(15)], "97.12 ± 0.13"
    )
    page = latex.page([wide], "wide")
    assert page.count(r"\begin{table*}") > 4
    assert page.count("A note") == 1
    assert page.count("97.12") == 80 * 15
    assert len(set(re.findall(r"\\label\{(.*)\}", page))) == page.count(r"\label")
    assert faults(page.replace("\n\n", "\n\\clearpage\n")) == []


def test_any_text_compiles_and_a_character_without_a_sign_is_a_question_mark(faults):
    odd = sheet(['naïve_ß ąć 日本 → \\x{}^~#$%& \x07 |<>" x'], ["1 × 2", "28x28"], "±−–")
    page = latex.page([odd], "odd ~ run")
    assert r"28$\times$28" in page
    assert "?? ?" in page
    assert r"\label{tab:odd-run-a-table}" in page
    assert faults(page) == []


def test_a_head_that_is_wider_than_a_page_is_a_table_of_its_own():
    text = latex.page([sheet(["npair"], ["listed:" + "a" * 99, "5-way 1-shot"], "98.00")], "run")
    assert text.count("\\begin{table*}") == 2


def test_a_learner_is_cited_by_the_keys_that_the_bibliography_has():
    names = ["imprinted (imprint), seed 0 [external data]", "my_own", "npair", "baseline++, conv4"]
    made = [sheet(names, ["5-way 1-shot"], "97.12 ± 0.13")]
    page, entries = latex.page(made, "run"), latex.bibliography(made)
    assert r"imprinted (imprint), seed 0 [external data]~\cite{qi2018,gidaris2018} &" in page
    assert r"my\_own &" in page
    cited = {key for keys in re.findall(r"\\cite\{(.*?)\}", page) for key in keys.split(",")}
    assert cited == set(re.findall(r"@misc\{(\w+),", entries)) == {"qi2018", "gidaris2018", "sohn2016", "chen2019"}
    assert "author = {Chen and others},\n  title = {{A Closer Look at Few-shot Classification}}" in entries


def test_every_paper_of_a_learner_has_a_title():
    cited = [
        one
        for name, cls in LEARNERS.items()
        for variant in cls.variants
        for one in latex.references(f"{name} ({variant})" if variant else name)
    ]
    assert len(cited) > 30
    assert [one for one in cited if not one.title] == []


def test_a_table_of_published_methods_cites_nothing():
    made = [sheet(["npair"], ["source", "ours"], "x", words=1, index="method")]
    assert "cite" not in latex.page(made, "run")
    assert latex.bibliography(made) == ""


def test_the_command_of_the_tables_writes_those_of_runs(tmp_path, monkeypatch):
    shutil.copytree(REFERENCE / "quick-omniglot-koch", tmp_path / "koch")
    (tmp_path / "koch" / "results.tex").write_text("old")
    monkeypatch.setattr(documents, "REFERENCE", tmp_path)
    documents.rewrite_runs()
    assert r"\toprule" in (tmp_path / "koch" / "results.tex").read_text()
    assert "koch2015" in (tmp_path / "koch" / "references.bib").read_text()
