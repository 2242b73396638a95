"""A head of another package: the class whose median is nearest."""

import numpy as np

from featbank.heads import Head, Parameter


class MedianClassifier(Head):
    """The class whose median is nearest."""

    _parameters = {"power": Parameter(over=0, help="power of the distance"), **Head._parameters}

    def __init__(self, *, power=2.0, standardize=True, rotate=False):
        self.power = power
        self.standardize = standardize
        self.rotate = rotate

    @classmethod
    def _fit_many(cls, heads, rows):
        for head, own in zip(heads, rows.subsets, strict=True):
            head.space_, head.n_features_in_ = rows.space, rows.space.n_features_
            head.classes_, codes = np.unique(rows.y[own], return_inverse=True)
            Z = rows.Z[own]
            head.medians_ = np.stack([np.median(Z[codes == c], axis=0) for c in range(len(head.classes_))])
            head.warned_ = "one sample is its own median" if len(own) == len(head.classes_) else None

    def _logits(self, Z):
        return -(np.abs(Z[:, None] - self.medians_) ** self.power).sum(axis=2).astype(np.float64)

    def _stored(self):
        return {"medians": self.medians_}, self.space_

    def _take_stored(self, tensors):
        self.medians_ = tensors["medians"]
