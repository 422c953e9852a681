"""Writes the four IDX files of this directory from scikit-learn's copy of the digits.

python 3.11.7, scikit-learn 1.9.1, numpy 2.4.6. Run as `python make.py` in this
directory. Another scikit-learn may draw another split.
"""

import gzip
import struct

import numpy
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

digits = load_digits()
images = digits.images.astype(numpy.uint8)
assert (images == digits.images).all() and images.max() == 16
labels = digits.target.astype(numpy.uint8)
train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, test_size=360, random_state=0, stratify=labels
)


def write(name, array):
    header = bytes([0, 0, 8, array.ndim])
    header += struct.pack(f">{array.ndim}I", *array.shape)
    data = gzip.compress(header + array.tobytes(), 9, mtime=0)
    with open(name, "wb") as file:
        file.write(data)


write("train-images-idx3-ubyte.gz", train_images)
write("train-labels-idx1-ubyte.gz", train_labels)
write("t10k-images-idx3-ubyte.gz", test_images)
write("t10k-labels-idx1-ubyte.gz", test_labels)
scaled = train_images.astype(numpy.float64) / 16
print("mean", scaled.mean(), "deviation", scaled.std())
print("sum", train_images.sum(), test_images.sum(), train_labels.sum(), test_labels.sum())
print("first", train_labels[:10], train_images[0].tolist())
print(numpy.bincount(train_labels), numpy.bincount(test_labels))
