"""The test protocols, which are ways to test trained models: one module each, with the interface of base.py.

episodes      N-way K-shot: which of N classes does this image show, given K images of each?
verification  do two images show the same class?
retrieval     which of all other images show the class of this one?
generalised   which of all classes, base and novel, does this image show?
domains       the questions of `episodes`, about the classes of other data sets too
"""
