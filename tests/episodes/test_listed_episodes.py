"""A csv file lists episodes image by image, and whatever does not fit the bank is refused with the line's number."""

from pathlib import Path

import pytest
import torch
from conftest import refusal

from episodes import Episodes, ImageBank
from episodes.draws import stream
from episodes.kinds import kind_sampler
from episodes.kinds.listed import ListedSampler

HEAD = "episode,file,label,role\n"
ONE = """\
first,a/0.png,a,support
first,b/0.png,b,support
first,b/3.png,b,query
first,a/2.png,a,query
"""
OTHER = """\
second,c/4.png,c,support
second,a/3.png,a,support
second,c/1.png,c,support
second,a/1.png,a,query
second,c/0.png,c,query
second,b/1.png,,unlabelled
"""


def bank_of(files=None) -> ImageBank:
    """Three classes a, b, c of five images a/0.png .. c/4.png."""
    names = tuple("abc")
    files = [f"{name}/{number}.png" for name in names for number in range(5)] if files is None else files
    images = torch.zeros((15, 1, 1, 1), dtype=torch.uint8)
    return ImageBank(images, torch.arange(4) * 5, names, names, dataset="toy", files=files)


def sampler_of(folder: Path, text: str, seed: int = 0) -> ListedSampler:
    path = folder / "list.csv"
    path.write_text(text, encoding="utf-8")
    return ListedSampler(bank_of(), path, seed)


def parts_of(folder: Path, text: str, size: int = 10) -> list[Episodes]:
    sampler = sampler_of(folder, text)
    return [*sampler.batches(sampler.count, size)]


def test_an_episode_is_what_its_lines_say(tmp_path):
    (part,) = parts_of(tmp_path, HEAD + ONE)
    assert part.classes.tolist() == [[0, 1]]
    assert part.support.tolist() == [[[0], [5]]]
    assert (part.query.tolist(), part.labels.tolist()) == ([[8, 2]], [[1, 0]])
    assert part.mask is None
    assert part.unlabelled is None
    assert torch.equal(part.keys, stream(0, part.numbers))


def test_unequal_shots_have_a_mask_and_unlabelled_images_need_no_label(tmp_path):
    (part,) = parts_of(tmp_path, HEAD + OTHER)
    assert part.classes.tolist() == [[2, 0]]
    assert part.support.tolist() == [[[14, 11], [3, 3]]]
    assert part.mask.tolist() == [[[True, True], [True, False]]]
    assert part.unlabelled.tolist() == [[6]]


def test_episodes_of_several_shapes_are_parts_of_their_own_and_numbered_as_in_the_file(tmp_path):
    third = ONE.replace("first", "third")
    sampler = sampler_of(tmp_path, HEAD + ONE + OTHER + third)
    assert (sampler.count, sampler.way, sampler.shot, sampler.queries) == (3, 2, 2, 2)
    assert sorted(part.numbers.tolist() for part in sampler.batches(3, 10)) == [[0, 2], [1]]
    assert sorted(part.numbers.tolist() for part in sampler.batches(3, 1)) == [[0], [1], [2]]
    assert sorted(part.numbers.tolist() for part in sampler.batches(2, 10)) == [[0], [1]]


def test_the_lines_of_an_episode_need_not_be_together(tmp_path):
    lines = [*ONE.splitlines(), *OTHER.splitlines()]
    mixed = HEAD + "\n".join(lines[::2] + lines[1::2])
    assert {tuple(sorted(part.query.flatten().tolist())) for part in parts_of(tmp_path, mixed)} == {(2, 8), (1, 10)}


@pytest.mark.parametrize("change", [("a/0.png", "a\\0.png"), (",", ";"), ("support", " support"), ("\n", "\r\n")])
def test_usual_forms_of_csv_are_read(tmp_path, change):
    (part,) = parts_of(tmp_path, (HEAD + ONE).replace(*change))
    assert part.support.tolist() == [[[0], [5]]]


def test_other_columns_and_another_order_are_read(tmp_path):
    rows = [line.split(",") for line in (HEAD + ONE).splitlines()]
    text = "\n".join(",".join([role, "x", label, file, name]) for name, file, label, role in rows)
    (part,) = parts_of(tmp_path, text)
    assert part.support.tolist() == [[[0], [5]]]


def test_two_images_of_one_file_are_told_apart_by_their_class(tmp_path):
    bank = bank_of(["0.png", "1.png", "2.png", "3.png", "4.png"] * 3)
    path = tmp_path / "list.csv"
    path.write_text(HEAD + "e,0.png,a,support\ne,0.png,b,support\ne,1.png,b,query\n", encoding="utf-8")
    (part,) = kind_sampler(f"listed:{path}", bank, 5, 1, 1, 0).batches(1, 1)
    assert part.support.tolist() == [[[0], [5]]]
    assert part.query.tolist() == [[6]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "needs a header with the columns episode, file, label, role, not an empty file"),
        ("episode,file,role\n", "needs a header with the columns episode, file, label, role, not episode, file, role"),
        (HEAD, "lists no episodes"),
        (HEAD + ONE + "first,a/1.png,a\n", "line 6 of {path} has 3 cells, but the header 4"),
        (HEAD + ONE + "first,a/1.png,a,test\n", "line 6 of {path} has the role 'test': write support, query or"),
        (HEAD + ONE + "first,a/9.png,a,query\n", "line 6 of {path} names 'a/9.png' of class 'a', which toy does not"),
        (HEAD + ONE + "first,a/1.png,b,query\n", "line 6 of {path} names 'a/1.png' of class 'b', which toy does not"),
        (HEAD + ONE + "first,a/1.png,,query\n", "line 6 of {path} names 'a/1.png' of class '', which toy does not"),
        (HEAD + ONE + "first,../../etc/passwd,a,query\n", "line 6 of {path} names '../../etc/passwd' of class 'a'"),
        (HEAD + ONE + "first,/etc/passwd,,unlabelled\n", "line 6 of {path} names '/etc/passwd' of class ''"),
        (HEAD + ONE + "first,a/0.png,a,query\n", "line 6 of {path} names 'a/0.png' for the second time in episode"),
        (HEAD + ONE + "first,c/0.png,c,query\n", "line 6 of {path} has a query of a class without support images"),
        (HEAD + ONE + "other,c/0.png,c,support\n", "episode 'other', from line 6 of {path} on, has no query: add one"),
        (HEAD + "other,c/0.png,c,query\n", "episode 'other', from line 2 of {path} on, has no support image"),
        (HEAD + '"first,a/0.png\n', "{path} cannot be read as a csv file in UTF-8 or UTF-16"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, text, message):
    assert message.format(path=tmp_path / "list.csv") in refusal(lambda: sampler_of(tmp_path, text))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "cannot be read (No such file" in refusal(lambda: ListedSampler(bank_of(), tmp_path / "none.csv"))
    (tmp_path / "binary.csv").write_bytes(b"\xff\x00\x81")
    assert "cannot be read as a csv file" in refusal(lambda: ListedSampler(bank_of(), tmp_path / "binary.csv"))


def test_a_bank_that_does_not_know_its_files_is_refused(tmp_path):
    (tmp_path / "list.csv").write_text(HEAD + ONE, encoding="utf-8")
    refused = refusal(lambda: ListedSampler(bank_of(()), tmp_path / "list.csv"))
    assert "toy does not know the files of its images" in refused


def test_more_episodes_than_are_listed_are_refused(tmp_path):
    assert "1 episodes are listed: there are no 2" in refusal(lambda: [*sampler_of(tmp_path, HEAD + ONE).batches(2, 1)])
