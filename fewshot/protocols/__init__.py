"""The test protocols, which are ways to test trained models: one module each, with the interface of base.py.

episodes      N-way K-shot: which of N classes does this image show, given K images of each?
verification  do two images show the same class?
retrieval     which of all other images show the class of this one?
generalised   which of all classes, base and novel, does this image show?
sessions      and which, while novel classes arrive a few at a time?
kinds         the question of `episodes`, in episodes that are unbalanced, of any size, or harder
open_set      is a query of a class of the episode at all?
domains       the question of `episodes`, about the classes of other data sets too
query_gallery  which images of a gallery show what this one shows, and do the images of a given pair show one class?
domain        which thing does an image show, in a style that only words have described?
"""
